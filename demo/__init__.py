"""A demonstration that learns on a CPU: data, a tiny base model and an accuracy check."""
