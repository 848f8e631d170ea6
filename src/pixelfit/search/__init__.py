"""The search: what to try next, and where trials run. Nothing is imported here, since a trial's process needs little of it."""
