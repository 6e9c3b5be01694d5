"""A run: what a user asked for, and everything that happens to it."""
