"""What holds on SQLite and on PostgreSQL alike."""
