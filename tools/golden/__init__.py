"""Compares what two versions of onebit compute, write and answer: `python -m tools.golden [before-house [HEAD]]`."""
