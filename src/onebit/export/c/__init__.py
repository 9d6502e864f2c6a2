"""The export target `c`: a folder of C99 without dependencies."""
