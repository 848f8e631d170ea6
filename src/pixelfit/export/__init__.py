"""A finished run's model, in forms that need no pixelfit."""
