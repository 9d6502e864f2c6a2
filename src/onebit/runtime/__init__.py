"""Run a packed net with the native library, or with numpy, the reference that defines its results.

* `sign` values are int8 and `integer` values int32; their sums are exact.
* Real values are rounded to a grid of integers before weights multiply them (`onebit.packed.grid`): their sums are
  exact too, in any order of additions.
* An affine map is computed in float64 and rounded once. Averages are rounded sums, then divided. Scales, centers,
  residual sums and the input coding are float32 operations with one rounding each, in the order stated by
  `onebit.packed.nodes`.
"""

from typing import TYPE_CHECKING

from onebit.common.lazy import lazy
from onebit.packed import load
from onebit.runtime.running import batches, native_plan, run, softmax

if TYPE_CHECKING:
    from onebit.runtime import timing as timing

__all__ = ["batches", "load", "native_plan", "run", "softmax"]

__getattr__, __dir__, _ = lazy(__name__)
