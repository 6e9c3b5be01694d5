"""A demonstration that learns on a CPU: data and a tiny base model."""
