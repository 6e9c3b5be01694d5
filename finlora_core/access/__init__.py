"""Who may do what: API keys, their scopes, and the owners that they stand for."""
