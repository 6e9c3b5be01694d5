"""Whose things are."""

DEFAULT_OWNER = "local"
"""Whose everything is on a machine with one user."""
