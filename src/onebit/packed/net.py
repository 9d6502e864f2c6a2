"""PackedNet: a deployable net as plain arrays, independent of training method and export target."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, Any, NamedTuple

import numpy as np

from onebit.common.fields import Bound, one_of
from onebit.common.record import Record, Text
from onebit.errors import FormatError, UsageError, short
from onebit.packed.card import Card
from onebit.packed.certificate import NOT_CERTIFIED, Certificate
from onebit.packed.nodes import OPS, Node, Value
from onebit.packed.nodes.node import MAX_VALUES, Numbers, check_finite, check_size, read_only

INPUT = "input"  # the name of the only input of a net
MAX_NODES = 10_000
MAX_INPUTS = MAX_OUTPUTS = 100
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_Name = Annotated[str, Bound("a name of 1 to 100 letters, digits, '_', '-' and '.'", lambda text: is_name(text))]
_OUTPUT_NAMES = Bound(f"1 to {MAX_OUTPUTS} names", lambda names: 1 <= len(names) <= MAX_OUTPUTS)
_CODINGS = {"uint8": ("integer", "standardise", "values"), "float32": ("values",)}


@dataclass(frozen=True, eq=False, kw_only=True)
class InputSpec(Record):
    """An input of a net, and how it becomes a value.

    Args:
        shape: of one sample: (C, H, W) of an image, (C, L) of a signal, (F,) of features, or any other.
        dtype: "uint8" or "float32".
        coding: "values" keeps the numbers; for uint8 also "integer" for 2x - 255, exactly, and "standardise" for
            (x - mean) / std in float32. Other preprocessing is part of the nodes.
        mean: (C,) float32 in pixel units 0..255, for "standardise" only.
        std: (C,) float32 in pixel units, positive, for "standardise" only.
        meaning: describes a sample, for display.
        sizes: "any" if images of other sizes than that of `shape` are taken, too; else "fixed". The graph is that of
            images of `shape`; `resized` gives those of others.
    """

    shape: tuple[int, ...]
    coding: Text = "integer"
    dtype: Text = "uint8"
    meaning: Text = ""
    sizes: Annotated[str, one_of("fixed", "any")] = "fixed"
    mean: np.ndarray | None = None
    std: np.ndarray | None = None

    KIND = "input"
    WRITTEN = ("coding",)
    APART = ("mean", "std")

    def __post_init__(self) -> None:
        super().__post_init__()
        Numbers(None, most=MAX_VALUES).check("input shape", self.shape)
        check_size("input", self.shape)
        self.require(shape=self.shape != (), coding=self.coding in _CODINGS.get(self.dtype, ()))
        self.require(sizes=self.sizes == "fixed" or len(self.shape) == 3)
        for name, array in (("mean", self.mean), ("std", self.std)):
            shaped = array is not None and array.dtype == np.float32 and array.shape == self.shape[:1]
            self.require(**{name: shaped if self.coding == "standardise" else array is None})
            if array is not None:
                object.__setattr__(self, name, read_only(array))

    @property
    def value(self) -> Value:
        """The coded input."""
        real = self.dtype == "float32" or self.coding == "standardise"
        if real:
            return Value(self.shape, "real")
        if self.coding == "values":
            return Value(self.shape, "integer", 255, 0)
        return Value(self.shape, "integer", 255, step=2)

    def check_values(self) -> None:
        """Raise FormatError for a mean that is not finite or a std that is not positive."""
        if self.mean is not None and self.std is not None:
            check_finite("input mean", self.mean)
            check_finite("input std", self.std)
            self.require(std=bool((self.std > 0).all()))


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class PackedNet(Record):
    """A net of packed operations on named values, checked by `infer` on construction.

    Two nets are equal if `onebit.packed.dumps` gives the same bytes.

    Args:
        inputs: the inputs by name; the coded form of each is the value of this name. A single input is named "input".
        nodes: the operations in topological order.
        output: name of the output value (the logits); for several outputs a tuple of names, or a dict from the key of
            each output to its name.
        classes: one name per logit, or None; for a single output only.
        certificate: the proof for this net, or None.
        name: name of the recipe or model, for display.
        card: what the net is and how it was made, or None.

    `values` has the shape and kind of every value by name, as `infer` finds them. `free` tells whether an input takes
    images of any size.

    Raises:
        FormatError: the graph is invalid; see `infer`.
    """

    name: Text = ""
    inputs: dict[str, InputSpec]
    nodes: tuple[Node, ...]
    output: _Name | Annotated[tuple[_Name, ...], _OUTPUT_NAMES] | Annotated[dict[Text, _Name], _OUTPUT_NAMES]
    classes: tuple[Text, ...] | None = None
    certificate: Certificate | None = None
    card: Card | None = None
    values: Mapping[str, Value] = field(init=False)
    free: bool = field(init=False)

    KIND = "the graph"
    WRITTEN = ("name", "classes", "certificate")
    APART = ("inputs", "nodes")

    def __post_init__(self) -> None:
        super().__post_init__()
        made = infer(self)
        object.__setattr__(self, "values", made)
        object.__setattr__(self, "free", any(spec.sizes == "any" for spec in self.inputs.values()))
        if self.classes is not None:
            logits = made[self.output].shape[:1] if isinstance(self.output, str) else ()
            if logits != (len(set(self.classes)),) or len(self.classes) != logits[0]:
                raise FormatError(f"got {len(self.classes)} class names, expected a different one per logit")

    def __repr__(self) -> str:
        """One line: shapes of input and output, number of nodes per operation, binary weights, bytes of arrays."""
        rows = costs(self)
        nodes = ", ".join(f"{count} {op}" for op, count in Counter(node.op for node in rows).items())
        bits, size = sum(node.binary_weights for node in rows), sum(node.bytes for node in rows)
        made = self.values
        given = ", ".join("×".join(map(str, made[name].shape)) or "1" for name in self.outputs)
        taken = ", ".join(
            f"{'×'.join(map(str, spec.shape))} {spec.coding if spec.dtype == 'uint8' else spec.dtype}"
            for spec in self.inputs.values()
        )
        return f"PackedNet({short(self.name)}, {taken} -> {given}: {nodes}; {bits:,} binary weights, {size:,} bytes)"

    @property
    def sizes(self) -> str:
        """The argument `sizes` of `onebit.pack`: "any" for a net that takes images of any size, else "fixed"."""
        return "any" if self.free else "fixed"

    @property
    def input(self) -> InputSpec:
        """The only input; UsageError if the net has several."""
        if len(self.inputs) > 1:
            raise UsageError(f"the net {self.name!r} has the inputs {', '.join(self.inputs)}, expected one")
        return next(iter(self.inputs.values()))

    @property
    def keyed(self) -> dict[str, str]:
        """The outputs: key -> name of the value. The key of a single output is "", those of a tuple "0", "1", …"""
        output = self.output
        if isinstance(output, dict):
            return output
        return {"": output} if isinstance(output, str) else {str(index): name for index, name in enumerate(output)}

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the output values, each once."""
        return tuple(dict.fromkeys(self.keyed.values()))

    @property
    def only_output(self) -> str:
        """The name of the only output, usually the logits; UsageError if the net has several."""
        if not isinstance(self.output, str):
            raise UsageError(f"the net {self.name!r} has {len(self.output)} outputs, expected one: the logits")
        return self.output

    @property
    def compared(self) -> str:
        """What the outputs mean, see `Certificate.compared`; "labels" without a certificate."""
        return self.certificate.compared if self.certificate else "labels"

    @property
    def promise(self) -> str:
        """What a certificate promises of this net, a key of `onebit.packed.certificate.PROMISES`.

        "rounded" if it takes signs of real numbers or rounds them to integers; else "exact" if all values are integers,
        except outputs that are scaled and shifted last; else "real".
        """
        layers = self.certificate.layers if self.certificate else ()
        if any(node.rounds for node in self.nodes) or any(layer.proof == "float" for layer in layers):
            return "rounded"
        last = {node.output for node in self.nodes if node.affine}.intersection(self.outputs)
        return "exact" if all(value.exact or name in last for name, value in self.values.items()) else "real"

    @cached_property
    def repeats(self) -> dict[str, str]:
        """Nodes that equal an earlier one but for their inputs and have arrays, as of a layer that is called again.

        The output of each -> the output of the first of them. A file has the arrays once.
        """
        first, found = dict[Any, str](), dict[str, str]()
        for node in self.nodes:
            if stored := node.stored:
                digest = hashlib.sha256()
                for name, array in stored.items():
                    digest.update(f"{name} {array.shape} ".encode() + array.tobytes())
                attributes = (
                    getattr(node, name) for name in (*node.attributes, *["in_features"] * ("signs" in stored))
                )
                key = type(node), *attributes, digest.digest()
                if (known := first.setdefault(key, node.output)) != node.output:
                    found[node.output] = known
        return found

    def pixels_have_classes(self, outputs: int) -> bool:
        """Whether each pixel has one class, for a net with this number of outputs per pixel.

        A pixel with several labels, or with values, has none. The sign of a single output tells two classes apart.
        """
        return self.compared == "labels" or (self.compared == "multi-label" and outputs == 1)

    @property
    def statement(self) -> str:
        """What was compared with the trained model, if anything, in one line."""
        made = self.certificate
        if made is None:
            return NOT_CERTIFIED
        shapes = [value.shape for name, value in self.values.items() if name in self.outputs]
        pixels = len(shapes) == 1 and len(shapes[0]) == 3 and made.compared == "labels"
        images = all(len(spec.shape) == 3 for spec in self.inputs.values())
        unit = "pixels" if pixels else "images" if images else "samples"
        if made.compared == "multi-label":
            unit = "labels (1 for an output above 0)"
        # a recipe has no preprocessing outside of its model
        against = "" if made.recipe is not None and made.trained_mismatches is None else f"; {made.against}"
        return f"certified on {made.in_words(unit)}{against}"

    def at(self, *sizes: Sequence[int]) -> PackedNet:
        """The same net for images of another size.

        Args:
            sizes: (H, W) of each input with images of any size, in their order.

        Raises:
            UsageError: the net takes images of its own size only, or none of this size.
        """
        free = [name for name, spec in self.inputs.items() if spec.sizes == "any"]
        if len(free) != len(sizes) or not free:
            raise UsageError(f"the net {self.name!r} has {len(free)} inputs of any size, got {len(sizes)} sizes")
        return resized(self, dict(zip(free, sizes, strict=True)))

    def structured(self, values: Mapping[str, Any]) -> Any:
        """The output in the form that the model returns: a value, a tuple or a dict, from `values` by name."""
        output = self.output
        if isinstance(output, str):
            return values[output]
        if isinstance(output, dict):
            return {key: values[name] for key, name in output.items()}
        return tuple(values[name] for name in output)

    def by_name(self, output: Any) -> dict[str, Any]:
        """The values of `outputs` by name; inverse of `structured`."""
        if isinstance(self.output, str):
            return {self.output: output}
        if isinstance(self.output, dict):
            return {name: output[key] for key, name in self.output.items()}
        return dict(zip(self.output, output, strict=True))

    def check_values(self) -> None:
        """Raise FormatError for invalid contents of an array; it names node and array and counts the values."""
        for spec in self.inputs.values():
            spec.check_values()
        known = self.values
        for node in self.nodes:
            with _named(node):
                node.check_values(*(known[name] for name in node.inputs))


def infer(net: PackedNet) -> dict[str, Value]:
    """Shape and kind of every value of a net, by name.

    Raises:
        FormatError: an invalid or duplicate name; a value that is read before it is computed, or never used; a wrong
            shape or kind; a value that is too large; or integer sums that may not fit an int32.
    """
    if len(net.nodes) > MAX_NODES:
        raise FormatError(f"the net has more than {MAX_NODES:,} nodes")
    if not 1 <= len(net.inputs) <= MAX_INPUTS or not all(map(is_name, net.inputs)):
        raise FormatError(f"the inputs are {short(list(net.inputs))}, expected 1 to {MAX_INPUTS} names")
    values = {name: spec.value for name, spec in net.inputs.items()}
    used = set(net.outputs)
    for node in net.nodes:
        with _named(node):
            if not is_name(node.output):
                raise FormatError("the name of its output is invalid")
            unknown = [name for name in node.inputs if name not in values]
            if unknown or node.output in values:
                raise FormatError(f"reads {short(unknown)}, which no earlier node computes, or repeats a name")
            used.update(node.inputs)
            made = node.infer(*(values[name] for name in node.inputs))
            check_size("its value", made.shape)
            values[node.output] = made
    missing = [name for name in net.outputs if name not in values or name in net.inputs]
    if wrong := missing + [name for name in values if name not in used]:
        raise FormatError(f"no node computes the value {short(wrong[0])}, or none reads it")
    return values


def resized(net: PackedNet, sizes: Mapping[str, Sequence[int]]) -> PackedNet:
    """The net for inputs of other sizes (H, W), by name; UsageError if it has none.

    Right only for a net that was packed with sizes="any", or for shapes alone.
    """
    try:
        inputs = {
            name: replace(spec, shape=(spec.shape[0], *sizes[name])) if name in sizes else spec
            for name, spec in net.inputs.items()
        }
        values, nodes = {name: spec.value for name, spec in inputs.items()}, []
        for node in net.nodes:
            first = node.inputs[0]
            with _named(node):
                made = node.resized(net.values[first], values[first])
                values[node.output] = made.infer(*(values[name] for name in node.inputs))
            nodes.append(made)
        return replace(net, inputs=inputs, nodes=tuple(nodes))
    except FormatError as error:
        raise UsageError(f"the net takes no images of {shown_sizes(sizes)}: {error}") from None


def shown_sizes(sizes: Mapping[str, Sequence[int]]) -> str:
    """The sizes (H, W) of inputs, as text."""
    return " and ".join("×".join(map(str, size)) for size in sizes.values())


def readers(net: PackedNet) -> dict[str, list[Node]]:
    """The nodes that read each value; a node that reads a value twice is listed twice."""
    found: dict[str, list[Node]] = {name: [] for name in net.values}
    for node in net.nodes:
        for name in node.inputs:
            found[name].append(node)
    return found


def only_readers(net: PackedNet) -> dict[str, Node]:
    """The node that alone reads a value, for the values that only one node reads and that are no outputs."""
    outputs = net.outputs
    return {name: found[0] for name, found in readers(net).items() if len(found) == 1 and name not in outputs}


def needed(nodes: Sequence[Node], names: Iterable[str]) -> tuple[Node, ...]:
    """The nodes, in order, that compute the values of these names."""
    wanted, kept = set(names), []
    for node in reversed(nodes):
        if node.output in wanted:
            wanted.update(node.inputs)
            kept.append(node)
    return tuple(reversed(kept))


@contextmanager
def _named(node: Node) -> Iterator[None]:
    """Adds the name of the node to a FormatError of the block."""
    try:
        yield
    except FormatError as error:
        raise FormatError(f"node {short(node.output)} ({op_name(node)}): {error}") from None


class NodeCost(NamedTuple):
    """The cost of one node; the cost of a net is the sum over its nodes."""

    name: str
    op: str
    shape: tuple[int, ...]
    binary_weights: int
    real_parameters: int
    bytes: int
    macs: int


def costs(net: PackedNet) -> tuple[NodeCost, ...]:
    """Weights, parameters, bytes in the file and multiply-accumulates for one image, per node.

    `shape` is the shape of the node's output. `bytes` does not include the header and the graph of the file. Weights of
    `PackedNet.repeats` count once.
    """
    values, rows = net.values, []
    for node in net.nodes:
        x, y = values[node.inputs[0]], values[node.output]
        counts = node.binary_weights, node.real_parameters, node.stored_bytes
        if node.output in net.repeats:
            counts = 0, 0, 0
        rows.append(NodeCost(node.output, op_name(node), y.shape, *counts, node.macs(x, y)))
    return tuple(rows)


def float32_bytes(net: PackedNet) -> int:
    """Bytes of the same net in float32."""
    return 4 * sum(row.binary_weights + row.real_parameters for row in costs(net))


def op_name(node: Node) -> str:
    """The key of a node in `OPS`."""
    return next(op for op, kind in OPS.items() if type(node) is kind)  # entries may be added


def is_name(text: str) -> bool:
    """Whether a value may have this name."""
    return _NAME.fullmatch(text) is not None
