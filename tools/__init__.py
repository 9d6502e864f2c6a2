"""Scripts that write parts of the documentation and of the package: `python -m tools.NAME`."""
