"""The domain: pure rules, the database, the stores. No web framework, no Celery, no torch."""
