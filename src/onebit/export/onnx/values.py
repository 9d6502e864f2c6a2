"""`Values`: in which forms the values of a net are there as tensors, and how one form becomes another.

=========  ==================================================================================
form       tensor
=========  ==================================================================================
`float`    float32, the numbers themselves
`int`      int32, the numbers themselves
`double`   float64, the numbers themselves
`code`     uint8, x + zero point: {0, 2} of ±1, and other integers of at most 8 bits, for products of integers
`raw`      uint8, the bytes b of an input whose values are 2b - 255
=========  ==================================================================================
"""

from __future__ import annotations

from typing import Any

import numpy as np

from onebit.errors import UsageError
from onebit.export.onnx.exactness import Uses, sum_bound, zero_point
from onebit.export.onnx.graph import Graph
from onebit.packed import PackedNet, Value
from onebit.packed.grid import FLOAT32_EXACT
from onebit.packed.net import INPUT, op_name
from onebit.packed.nodes import Node

DTYPES = {"float": np.float32, "int": np.int32, "double": np.float64, "code": np.uint8, "raw": np.uint8}


class Values:
    """The tensors of the values of a net in a graph.

    Args:
        integers: use products of integers where they are exact.
        precise: compute in float64 where bits matter.
    """

    def __init__(self, net: PackedNet, graph: Graph, *, integers: bool, precise: bool) -> None:
        self.net, self.graph, self.integers = net, graph, integers
        self.uses = Uses(net)
        self.values = self.uses.values
        self.precise = self.uses.precise if precise else set()
        self.written: set[str] = set()
        """Values whose node was written together with one before it."""
        self._tensors: dict[str, dict[str, str]] = {INPUT: self._input()}

    def require_float32_sums(self, node: Node, x: Value) -> None:
        """UsageError for sums of integers beyond float32, in which onnx computes windows."""
        if self.values[node.output].exact and sum_bound(node, x) > FLOAT32_EXACT:
            raise UsageError(
                f"{op_name(node)} {node.output!r} sums integers up to {sum_bound(node, x):,}; onnx has sums of windows "
                f"only up to {FLOAT32_EXACT:,}, which float32 holds; use another target"
            )

    def natural(self, name: str) -> str:
        """The form in which a value was made."""
        return next(iter(self._tensors[name]))

    def made(self, name: str, form: str, tensor: str) -> None:
        """Remember a tensor."""
        self._tensors.setdefault(name, {})[form] = tensor

    def tensor_name(self, name: str, form: str) -> str:
        """What the tensor of a value is called: its own name for float32, so that outputs have theirs."""
        return self.graph.name(name if form == "float" and name != INPUT else f"{name}/{form}")

    def add(self, op: str, *inputs: str, of: str, form: str = "", **attributes: Any) -> str:
        """Append a node for the value `of`: its last one, which makes the value in `form`, or one before that."""
        output = self.tensor_name(of, form) if form else self.graph.name(f"{of}/{op.lower()}")
        self.graph.add(op, *inputs, output=output, **attributes)
        if form:
            self.made(of, form, output)
        return output

    def padded(self, tensor: str, padding: tuple[int, int, int, int], value: float, dtype: Any, *, of: str) -> str:
        """Append a Pad of images for the value `of`; padding: (top, bottom, left, right)."""
        top, bottom, left, right = padding
        border = self.graph.number(value, dtype)
        return self.add("Pad", tensor, self.graph.shape(0, 0, top, left, 0, 0, bottom, right), border, of=of)

    def cast(self, tensor: str, dtype: Any, *, of: str, form: str = "") -> str:
        """Append a Cast, as `add`."""
        to = self.graph.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self.add("Cast", tensor, of=of, form=form, to=to)

    def get(self, name: str, form: str) -> str:
        """The tensor of a value in a form; nodes that convert it are appended if it is not there."""
        have, number = self._tensors[name], self.graph.number
        if form in have:
            return have[form]
        source = self.natural(name)
        tensor, dtype = have[source], DTYPES[form]
        if form == "code":
            if zero := zero_point(self.values[name]):
                tensor = self.add("Add", tensor, number(zero, DTYPES[source]), of=name)
            return self.cast(tensor, dtype, of=name, form=form)
        factor, zero = self.coding(name, source)
        if not zero:
            return self.cast(tensor, dtype, of=name, form=form)
        tensor = self.cast(tensor, dtype, of=name)
        if factor != 1:
            tensor = self.add("Mul", tensor, number(factor, dtype), of=name)
        return self.add("Sub", tensor, number(zero, dtype), of=name, form=form)

    def coding(self, name: str, form: str) -> tuple[int, int]:
        """(factor, zero): factor · tensor - zero is the value."""
        if form == "code":
            return 1, zero_point(self.values[name])
        return (2, 255) if form == "raw" else (1, 0)

    def per_channel(self, array: np.ndarray, of: str, what: str, dtype: Any = None) -> str:
        """A constant (C, 1, …) for the axes of the value `of`."""
        array = np.asarray(array, dtype)
        rank = len(self.values[of].shape)
        return self.graph.constant(array.reshape(-1, *[1] * (rank - 1)), f"{of}/{what}")

    def _input(self) -> dict[str, str]:
        spec, graph = self.net.input, self.graph
        if spec.dtype == "float32":
            return {"float": INPUT}
        if spec.mean is None or spec.std is None:
            return {"raw" if spec.coding == "integer" else "code": INPUT}
        tensors = [
            graph.constant(array.reshape(-1, *[1] * (len(spec.shape) - 1)), f"{INPUT}/{name}")
            for name, array in (("mean", spec.mean), ("std", spec.std))
        ]
        tensor = graph.cast(INPUT, np.float32, output=f"{INPUT}/cast")
        tensor = graph.add("Sub", tensor, tensors[0], output=f"{INPUT}/sub")
        if INPUT not in self.precise:
            return {"float": graph.add("Div", tensor, tensors[1], output=f"{INPUT}/float")}
        # onnxruntime may multiply by the reciprocal: in float64, that too is rounded to the right float32
        tensor, std = (
            graph.cast(one, np.float64, output=f"{INPUT}/{name}")
            for one, name in ((tensor, "wide"), (tensors[1], "wide_std"))
        )
        tensor = graph.add("Div", tensor, std, output=f"{INPUT}/div")
        return {"float": graph.cast(tensor, np.float32, output=f"{INPUT}/float")}
