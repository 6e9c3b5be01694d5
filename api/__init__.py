"""The REST API: FastAPI routes over `finlora_core`."""
