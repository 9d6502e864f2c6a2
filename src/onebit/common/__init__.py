"""What every room needs: files, tables of names, checked arguments, pictures, progress. Imports no torch."""

from typing import TYPE_CHECKING

from onebit.common.lazy import lazy_modules

if TYPE_CHECKING:
    from onebit.common import files as files
    from onebit.common import memory as memory
    from onebit.common import progress as progress
    from onebit.common import tables as tables

__getattr__ = lazy_modules(__name__)
