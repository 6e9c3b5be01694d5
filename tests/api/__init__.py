"""The REST API, over a real database."""
