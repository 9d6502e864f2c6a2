"""What every room needs: files, tables of names, checked arguments, pictures, progress. Imports no torch."""
