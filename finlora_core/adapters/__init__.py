"""Finished adapters: checked, published, listed, downloaded."""
