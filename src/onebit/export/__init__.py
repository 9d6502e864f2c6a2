"""Trained nets for other software, one file per target."""
