"""Proof that weights are binary and that a packed net computes what the trained one does."""
