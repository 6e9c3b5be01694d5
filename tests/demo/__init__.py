"""The demo's dataset."""
