"""`Graph`: the nodes and constants of an ONNX graph, and weights that take one bit each in the file.

The bits of all weights are one uint8 constant, eight to a byte, the first in the lowest bit, as in a `.1bit` file. A
table of 256 rows of eight ±1 turns bytes into weights, in operators that onnxruntime computes once, when a session
starts: Cast -> Gather -> Reshape -> Cast -> Split -> a Reshape per layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

OPSET = 13
IR_VERSION = 9  # that of onnxruntime 1.16; the default of the onnx package may be newer than onnxruntime loads
QONNX_DOMAIN = "qonnx.custom_op.general"
_TABLE = (np.arange(256)[:, None] >> np.arange(8) & 1).astype(np.int8) * 2 - 1


class Graph:
    """Nodes and constants in the order in which they were added. Equal constants are stored once.

    Args:
        weights: how ±1 weights are stored, a value of `onebit.export.onnx.target.FLAVORS`.
    """

    def __init__(self, weights: str = "bits") -> None:
        from onnx import helper, numpy_helper

        self.helper, self.to_tensor = helper, numpy_helper.from_array
        self.stored = weights
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}
        self._known: dict[tuple[Any, ...], str] = {}
        self._taken: set[str] = set()
        self._layers: dict[Any, list[tuple[str, np.ndarray]]] = {}

    def add(self, op: str, *inputs: str, output: str, domain: str = "", **attributes: Any) -> str:
        """Append a node with one output, and return the name of that."""
        self.nodes.append(self.helper.make_node(op, inputs, [output], domain=domain, **attributes))
        return output

    def name(self, text: str) -> str:
        """A tensor name that is not taken: `text`, or with a number behind it."""
        made, number = text, 1
        while made in self._taken:
            number += 1
            made = f"{text}{number}"
        self._taken.add(made)
        return made

    def cast(self, tensor: str, dtype: Any, *, output: str) -> str:
        """The same values in another dtype of numpy."""
        return self.add("Cast", tensor, output=output, to=self.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def constant(self, array: Any, name: str, dtype: Any = None) -> str:
        """The name of a tensor with these values."""
        array = np.asarray(array, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = name = self.name(name)
            if array.dtype == np.int64:  # as variable-length integers, which are shorter
                kind = self.helper.np_dtype_to_tensor_dtype(array.dtype)
                tensor = self.helper.make_tensor(name, kind, array.shape, array.reshape(-1))
            else:
                tensor = self.to_tensor(array, name)
            self.constants[name] = tensor
        return self._known[key]

    def number(self, value: float, dtype: Any) -> str:
        """The name of a constant without axes."""
        return self.constant(value, f"{np.dtype(dtype)}/{value}", dtype)

    def filled(self, value: float, size: int, dtype: Any) -> str:
        """The name of a tensor (size,) of one number, which takes few bytes in the file."""
        name = f"{np.dtype(dtype)}/{value}/{size}"
        if name not in self._taken:
            self.add("Expand", self.number(value, dtype), self.shape(size), output=self.name(name))
        return name

    def shape(self, *sizes: int) -> str:
        """A constant list of integers, for shapes and axes."""
        return self.constant(np.array(sizes, np.int64), "shape/" + "x".join(map(str, sizes)).replace("-1", "n"))

    def weights(self, name: str, signs: np.ndarray, dtype: Any = np.float32) -> str:
        """The name of a tensor with ±1 weights.

        Args:
            signs: int8, in the shape of the tensor.
            dtype: of the tensor: float32, float64 or int8.
        """
        name = self.name(f"{name}/weight")
        if self.stored == "bits":
            self._layers.setdefault(np.dtype(dtype), []).append((name, signs))
        elif self.stored == "bipolar":
            values = self.constant(signs, f"{name}/values", dtype)
            self.bipolar(values, output=name)
        else:
            self.constants[name] = self.to_tensor(signs.astype(dtype), name)
        return name

    def bipolar(self, tensor: str, *, output: str) -> str:
        """±1: the sign of a tensor, with QONNX's operator, for which zero is +1 too."""
        one = self.number(1, np.float32)
        return self.add("BipolarQuant", tensor, one, output=output, domain=QONNX_DOMAIN)

    def model(self, name: str, inputs: Sequence[Any], outputs: Sequence[Any], **fields: Any) -> Any:
        """The finished model; inputs and outputs: (name, dtype, shape).

        Args:
            fields: of the model, such as `doc_string`.
        """
        helper = self.helper

        def info(name: str, dtype: Any, shape: Any) -> Any:
            return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)

        unpacking = [node for dtype, layers in self._layers.items() for node in self._unpack(dtype, layers)]
        graph = helper.make_graph(
            [*unpacking, *self.nodes],
            name,
            *([info(*one) for one in some] for some in (inputs, outputs)),
            list(self.constants.values()),
        )
        opsets = [helper.make_opsetid("", OPSET)]
        if self.stored == "bipolar":
            opsets.append(helper.make_opsetid(QONNX_DOMAIN, 1))
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, **fields)

    def _unpack(self, dtype: Any, layers: list[tuple[str, np.ndarray]]) -> list[Any]:
        """Nodes that make the weights of one dtype from their bits."""
        first = len(self.nodes)
        what = "bits" if len(self._layers) == 1 else f"bits/{dtype.name}"
        signs = np.concatenate([layer.reshape(-1) for _, layer in layers])
        bits = self.constant(np.packbits(signs > 0, bitorder="little"), f"{what}/packed")
        tensor = self.cast(bits, np.int32, output=f"{what}/index")
        tensor = self.add("Gather", self.constant(_TABLE, "bits/table"), tensor, output=f"{what}/signs")
        tensor = self.add("Reshape", tensor, self.shape(-1), output=f"{what}/flat")
        if dtype != np.int8:
            tensor = self.cast(tensor, dtype, output=f"{what}/values")
        sizes = [layer.size for _, layer in layers]
        parts = [f"{what}/{index}" for index in range(len(layers))]
        if rest := -sum(sizes) % 8:
            sizes.append(rest)
            parts.append(f"{what}/rest")
        self.nodes.append(
            self.helper.make_node("Split", [tensor, self.constant(sizes, f"{what}/sizes", np.int64)], parts)
        )
        for part, (name, layer) in zip(parts, layers, strict=False):
            self.add("Reshape", part, self.shape(*layer.shape), output=name)
        made = self.nodes[first:]
        del self.nodes[first:]
        return made
