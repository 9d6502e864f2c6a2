"""`Graph` collects the nodes and constants of an ONNX graph, and the tensors that hold each value of the net.

A value can have several tensors, in these forms:

=========  ==================================================================================
form       tensor
=========  ==================================================================================
`float`    float32, the numbers themselves
`int`      int32, the numbers themselves
`double`   float64, the numbers themselves
`code`     uint8, x + zero point: {0, 2} for ±1, and other integers of at most 8 bits, for products of integers
`raw`      uint8, the bytes b of an input whose values are 2b - 255
=========  ==================================================================================

The bits of all weights are one uint8 constant, eight to a byte, the first in the lowest bit, as in a `.1bit` file. A
table of 256 rows of eight ±1 turns bytes into weights, with operators that onnxruntime evaluates once, when a session
starts: Cast -> Gather -> Reshape -> Cast -> Split -> a Reshape per layer.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from onebit.errors import UsageError
from onebit.export.onnx.exactness import Uses, sum_bound, zero_point
from onebit.packed import InputSpec, Node, PackedNet, Value
from onebit.packed.grid import FLOAT32_EXACT
from onebit.packed.net import op_name

OPSET = 13
IR_VERSION = 9  # that of onnxruntime 1.16; the default of the onnx package may be newer than onnxruntime loads
QONNX_DOMAIN = "qonnx.custom_op.general"
DTYPES = {"float": np.float32, "int": np.int32, "double": np.float64, "code": np.uint8, "raw": np.uint8}
_TABLE = (np.arange(256)[:, None] >> np.arange(8) & 1).astype(np.int8) * 2 - 1


def output_keys(net: PackedNet) -> dict[str, str]:
    """What names an output in the file -> its value: the key of a dict, or the name of the value."""
    return net.output if isinstance(net.output, dict) else {name: name for name in net.outputs}


class Graph:
    """Nodes and constants in the order in which they were added. Equal constants are stored once.

    values: shapes and kinds of the values of the net. current: the value whose nodes are being written. integers:
    whether to store weights as bits and to use products of integers where they are exact. marks: whether QONNX's
    operators mark binary floats. precise: values that are computed in float64, because their bits matter. written:
    values whose nodes an earlier value included. outputs: name in the file -> value.
    """

    def __init__(self, net: PackedNet, flavor: str) -> None:
        from onnx import helper, numpy_helper

        self.helper, self.to_tensor = helper, numpy_helper.from_array
        self.net, self.integers, self.marks = net, flavor == "standard", flavor == "qonnx"
        self.free = net.free and not self.marks
        """Whether images may have other sizes: then no constant depends on them."""
        self.uses = Uses(net)
        self.values = net.values
        self.precise = set() if self.marks else self.uses.precise
        self.written: set[str] = set()
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}
        self._known: dict[tuple[Any, ...], str] = {}
        self._taken = {*net.inputs}
        self.outputs = {self.name(key or value): value for key, value in output_keys(net).items()}
        self._layers: dict[Any, list[tuple[str, np.ndarray]]] = {}
        self._tensors: dict[str, dict[str, str]] = {}
        for name, spec in net.inputs.items():
            self.current = name
            self._code_input(name, spec)

    # nodes

    def add(self, op: str, *inputs: str, of: str = "", output: str = "", domain: str = "", **attributes: Any) -> str:
        """Append a node of the value `of`, by default the current one; the name of its output."""
        output = output or self.name(f"{of or self.current}/{op.lower()}")
        self.nodes.append(self.helper.make_node(op, inputs, [output], domain=domain, **attributes))
        return output

    def make(self, form: str, of: str = "") -> str:
        """Register the last node's output as the value in this form; a float32 tensor has the name of an output."""
        of, output = of or self.current, self.nodes[-1].output
        self._taken.remove(output[0])
        named = next((name for name, value in self.outputs.items() if value == of and form == "float"), None)
        output[0] = name = named or self.name(of if form == "float" and of not in self.net.inputs else f"{of}/{form}")
        self._tensors.setdefault(of, {})[form] = name
        return name

    def name(self, text: str) -> str:
        """A new tensor name: `text`, with a number appended if it is taken."""
        made, number = text, 1
        while made in self._taken:
            number += 1
            made = f"{text}{number}"
        self._taken.add(made)
        return made

    def cast(self, tensor: str, dtype: Any, **given: str) -> str:
        """Append a Cast to a numpy dtype; see `add`."""
        return self.add("Cast", tensor, to=self._kind(dtype), **given)

    def real(self, op: str, a: str, b: str) -> str:
        """Append an operation of two float32 tensors, in float64 if bits matter.

        The rounded result is the same, but onnxruntime would merge float32 operations with others.
        """
        if self.current not in self.precise:
            return self.add(op, a, b)
        a, b = (self.cast(tensor, np.float64) for tensor in (a, b))
        return self.cast(self.add(op, a, b), np.float32)

    def padded(
        self, tensor: str, padding: tuple[int, int, int, int], value: float, dtype: Any, channels: Any = (0, 0)
    ) -> str:
        """Append a Pad of images; padding: (top, bottom, left, right); channels: (before, after)."""
        top, bottom, left, right = padding
        sizes = self.shape(0, channels[0], top, left, 0, channels[1], bottom, right)
        return self.add("Pad", tensor, sizes, self.number(value, dtype))

    def bipolar(self, tensor: str, **given: str) -> str:
        """Append QONNX's sign operator, for which the sign of zero is +1 too."""
        return self.add("BipolarQuant", tensor, self.number(1, np.float32), domain=QONNX_DOMAIN, **given)

    # constants

    def constant(self, array: Any, name: str, dtype: Any = None) -> str:
        """The name of a tensor with these values."""
        array = np.asarray(array, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = name = self.name(name)
            if array.dtype == np.int64:  # stored as variable-length integers, which are shorter
                tensor = self.helper.make_tensor(name, self._kind(np.int64), array.shape, array.reshape(-1))
            else:
                tensor = self.to_tensor(array, name)
            self.constants[name] = tensor
        return self._known[key]

    def number(self, value: float, dtype: Any) -> str:
        """The name of a constant without axes."""
        return self.constant(value, f"{np.dtype(dtype)}/{value}", dtype)

    def filled(self, value: float, size: int, dtype: Any) -> str:
        """The name of a tensor (size,) filled with one number, stored in a few bytes."""
        name = f"{np.dtype(dtype)}/{value}/{size}"
        if name not in self._taken:
            self.add("Expand", self.number(value, dtype), self.shape(size), output=self.name(name))
        return name

    def shape(self, *sizes: int) -> str:
        """A constant list of integers, for shapes and axes."""
        return self.constant(np.array(sizes, np.int64), "shape/" + "x".join(map(str, sizes)).replace("-1", "n"))

    def per_channel(self, array: np.ndarray, what: str, dtype: Any = None) -> str:
        """A constant (C, 1, …) that broadcasts over the current value."""
        rank = len(self.values[self.current].shape)
        return self.constant(array.reshape(-1, *[1] * (rank - 1)), f"{self.current}/{what}", dtype)

    def weights(self, signs: np.ndarray, dtype: Any = np.float32) -> str:
        """The name of a tensor of float32, float64 or int8 with the ±1 weights of the current value; signs: int8."""
        name = self.name(f"{self.current}/weight")
        if self.integers:
            self._layers.setdefault(np.dtype(dtype), []).append((name, signs))
        elif self.marks:
            self.bipolar(self.constant(signs, f"{name}/values", dtype), output=name)
        else:
            self.constants[name] = self.to_tensor(signs.astype(dtype), name)
        return name

    # values

    def natural(self, name: str) -> str:
        """The form in which a value was computed."""
        return next(iter(self._tensors[name]))

    def get(self, name: str, form: str) -> str:
        """The tensor of a value in a form; converts the value on first use."""
        have, source, dtype = self._tensors[name], self.natural(name), DTYPES[form]
        if form in have:
            return have[form]
        tensor = have[source]
        if form == "code":
            if zero := zero_point(self.values[name]):
                tensor = self.add("Add", tensor, self.number(zero, DTYPES[source]), of=name)
            self.cast(tensor, dtype, of=name)
        else:
            factor, zero = self.coding(name)
            tensor = self.cast(tensor, dtype, of=name)
            if factor != 1:
                tensor = self.add("Mul", tensor, self.number(factor, dtype), of=name)
            if zero:
                self.add("Sub", tensor, self.number(zero, dtype), of=name)
        return self.make(form, name)

    def coding(self, name: str) -> tuple[int, int]:
        """(factor, zero) with which factor · tensor - zero is the value, for the tensor in its natural form."""
        form = self.natural(name)
        if form == "code":
            return 1, zero_point(self.values[name])
        return (2, 255) if form == "raw" else (1, 0)

    def require_float32_sums(self, node: Node, x: Value) -> None:
        """Raise UsageError for sums of integers that float32 cannot hold; ONNX sums windows in float32."""
        if self.values[node.output].exact and sum_bound(node, x) > FLOAT32_EXACT:
            raise UsageError(
                f"{op_name(node)} {node.output!r} sums integers up to {sum_bound(node, x):,}, which exceeds "
                f"{FLOAT32_EXACT:,}, the limit of float32; use another target"
            )

    def _code_input(self, name: str, spec: InputSpec) -> None:
        if spec.mean is None or spec.std is None:
            form = "float" if spec.dtype == "float32" else "raw" if spec.coding == "integer" else "code"
            self._tensors[name] = {form: name}
            return
        mean, std = self.per_channel(spec.mean, "mean"), self.per_channel(spec.std, "std")
        tensor = self.add("Sub", self.cast(name, np.float32), mean)
        self.real("Div", tensor, std)  # in float32, onnxruntime may multiply by the reciprocal
        self.make("float")

    # the whole

    def model(self, **fields: Any) -> Any:
        """The finished model, with `fields` such as `doc_string`."""
        helper, net = self.helper, self.net
        written, self.nodes = self.nodes, []
        for dtype, layers in self._layers.items():
            self._unpack(dtype, layers)
        inputs = [self._end(name, name, spec.dtype) for name, spec in net.inputs.items()]
        outputs = [self._end(name, value, "float32") for name, value in self.outputs.items()]
        name, constants = net.name or "net", [*self.constants.values()]
        graph = helper.make_graph([*self.nodes, *written], name, inputs, outputs, constants)
        opsets = [helper.make_opsetid("", OPSET)]
        if self.marks:
            opsets.append(helper.make_opsetid(QONNX_DOMAIN, 1))
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, **fields)

    def _end(self, name: str, value: str, dtype: str) -> Any:
        """An input or output of the graph, with names for sizes that are free."""
        shape = self.values[value].shape
        sizes = [shape[0], f"{name}_height", f"{name}_width"] if self.free and len(shape) == 3 else [*shape]
        return self.helper.make_tensor_value_info(name, self._kind(dtype), [1 if self.marks else "N", *sizes])

    def _unpack(self, dtype: Any, layers: list[tuple[str, np.ndarray]]) -> None:
        """Append nodes that unpack the weights of one dtype from their bits."""
        self.current = "bits"
        signs = np.concatenate([layer.reshape(-1) for _, layer in layers])
        bits = self.constant(np.packbits(signs > 0, bitorder="little"), "bits/packed")
        tensor = self.add("Gather", self.constant(_TABLE, "bits/table"), self.cast(bits, np.int32))
        tensor = self.add("Reshape", tensor, self.shape(-1))
        if dtype != np.int8:
            tensor = self.cast(tensor, dtype)
        sizes = [layer.size for _, layer in layers]
        if rest := -sum(sizes) % 8:
            sizes.append(rest)
        parts = [self.name(f"bits/{index}") for index in range(len(sizes))]
        self.nodes.append(self.helper.make_node("Split", [tensor, self.constant(sizes, "bits/sizes", np.int64)], parts))
        for part, (name, layer) in zip(parts, layers, strict=False):
            self.add("Reshape", part, self.shape(*layer.shape), output=name)

    def _kind(self, dtype: Any) -> Any:
        return self.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
