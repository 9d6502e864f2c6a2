"""Run a packed net: with the native library, or with numpy, the reference that defines what a packed net computes.

* `sign` values are int8 and `integer` values int32, and their sums are exact, whatever computes them.
* Real values that meet weights are rounded to a grid of integers first, see `onebit.packed.grid`: their sums are exact
  too, and no order that anything adds in changes a bit.
* An affine map is computed in float64 and rounded once. Averages are sums, rounded, and then divided. Scales, centres,
  residual sums and the input coding are float32 operations, one rounding each, in the order in which
  `onebit.packed.nodes` writes them.
"""

from onebit.packed import load
from onebit.runtime.executors import EXECUTORS
from onebit.runtime.running import batches, check_logits, native_plan, run, softmax

__all__ = ["EXECUTORS", "batches", "check_logits", "load", "native_plan", "run", "softmax"]
