"""Flags, files and scripts of other repositories: words in, settings out; one module for each (docs/coming-from.md)."""
