"""The training engine: the loop and what it consists of."""
