"""What every room needs: files, tables of names, checked arguments, pictures, progress. Imports no torch."""

from onebit.common.lazy import lazy

__version__ = "0.1.0"

__getattr__, __dir__, _ = lazy(__name__)
