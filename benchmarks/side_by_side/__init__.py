"""What `benchmarks.api` is made of: the contestants, their rows, and the load."""
