"""The whole service, with real training."""
