"""Tests mirror the tree; e2e/ trains for real."""
