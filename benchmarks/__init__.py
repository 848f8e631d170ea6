"""Measurements of pixelfit, each one command; ``docs/benchmarks.md`` tells which."""
