"""Measurements of the service, each a program whose last line is JSON."""
