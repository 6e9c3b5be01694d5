"""Adapters merged into their base: what is asked for, how near it comes, what there is."""
