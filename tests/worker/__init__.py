"""Tests of what the worker is made of."""
