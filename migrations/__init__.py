"""Alembic migrations: the tables, step by step. `finlora migrate` runs them."""
