"""Tests of tasks, metrics and statistics."""
