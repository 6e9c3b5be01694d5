"""Exit codes of worker.fetch, apart from it so that reading them imports no hub client."""

NOT_FOUND = 3
GATED = 4
FULL = 5
