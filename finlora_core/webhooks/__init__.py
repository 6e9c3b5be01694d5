"""Telling others of ended runs: an outbox, signatures, and a guard for where it may connect."""
