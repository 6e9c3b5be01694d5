"""The Celery worker: claims a run, trains it with Axolotl, publishes its adapter."""
