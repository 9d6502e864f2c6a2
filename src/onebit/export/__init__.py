"""Trained nets for other software, one file per target."""

from typing import TYPE_CHECKING

from onebit.common.lazy import lazy_modules

if TYPE_CHECKING:
    from onebit.export import torch_state as torch_state

__getattr__ = lazy_modules(__name__)
