"""From whatever the user has to decoded pictures, facts about them, and splits."""
