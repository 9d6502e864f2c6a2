"""Exports packed nets to other software: one module and one line of `EXPORTS` per target. Does not load torch."""

from typing import TYPE_CHECKING

from onebit.common.lazy import lazy
from onebit.export.targets import EXPORTS as EXPORTS, CannotRun as CannotRun, Target as Target

if TYPE_CHECKING:
    from onebit.export.comparison import Comparison as Comparison
    from onebit.export.writing import Exported as Exported, export_net as export_net

__getattr__, __dir__, _ = lazy(__name__, {"comparison": "Comparison", "writing": "Exported export_net"})
