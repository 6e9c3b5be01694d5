"""The tables and the transactions."""
