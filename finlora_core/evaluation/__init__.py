"""How good is an answer, a set of them, a difference: tasks, metrics, statistics."""
