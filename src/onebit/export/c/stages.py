"""The stages of an exported net: C functions that each compute one value, pixel by pixel."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import accumulate
from math import prod
from typing import Any

import numpy as np

from onebit.errors import UsageError
from onebit.export.c.values import BITS, LOADS, Memory, Stored, plain
from onebit.packed import Node, PackedNet, Value
from onebit.packed.net import op_name, readers
from onebit.packed.nodes.view import Axis, View


@dataclass
class Stage:
    """A C function under construction.

    current: shape, kind and bound of the value whose pixel is in `x`. titles: what the function does, for its comment.
    loops: variables and their ends. head, body: lines of C. channel_bytes: bytes of `x` per channel. pairs: whether two
    pixels are computed at once. replaces: values whose memory the result may reuse, pixel by pixel; keeps: values whose
    memory it must not reuse. rows: scratch memory by its declaration in C.
    """

    index: int
    current: Value
    titles: list[str]
    head: list[str] = field(default_factory=list)
    loops: list[tuple[str, int]] = field(default_factory=list)
    body: list[str] = field(default_factory=list)
    channel_bytes: int = 4
    pairs: bool = False
    replaces: list[Stored] = field(default_factory=list)
    keeps: list[Stored] = field(default_factory=list)
    rows: dict[str, Memory] = field(default_factory=dict)

    @property
    def channels(self) -> int:
        return self.current.shape[0] if self.current.shape else 1

    @property
    def pixels(self) -> int:
        return prod(self.current.shape[1:])

    @property
    def bytes(self) -> int:
        """Bytes of `x`, or of a pair."""
        return self.channel_bytes * self.channels * (1 + self.pairs)

    @property
    def pixel(self) -> list[tuple[str, int]]:
        """Index of the current pixel, as variables and factors."""
        ends = [end for _, end in self.loops]
        return [(variable, prod(ends[k + 1 :])) for k, (variable, _) in enumerate(self.loops)]


class Stages:
    """Functions, memory and weights of an exported net; base class of its planner.

    list: the stages; lines are added to the last one. open: the value that it computes, pixel by pixel; "" once it is
    finished. planned: the value that is being planned.
    """

    def __init__(self, net: PackedNet) -> None:
        self.net = net
        self.values = net.values
        self.readers = readers(net)
        self.list: list[Stage] = []
        self.memories: dict[Memory, int] = {}
        self.stored: dict[str, Stored] = {}
        self.arrays: dict[str, np.ndarray] = {}
        self._named: dict[tuple[str, bytes], str] = {}
        self.levels: dict[str, tuple[np.float32, np.float32]] = {}  # of real values that are in memory as signs
        self.open, self.planned = "", ""
        self.uses = Counter([*net.outputs, *(name for node in net.nodes for name in node.inputs)])
        sizes = [prod(self.values[name].shape) for name in net.outputs]
        self.output_offsets = dict(zip(net.outputs, accumulate(sizes, initial=0), strict=False))
        self.output_size = sum(sizes)
        sizes = [prod(spec.shape) for spec in net.inputs.values()]
        self.input_offsets = dict(zip(net.inputs, accumulate(sizes, initial=0), strict=False))
        self.input_size = sum(sizes)
        if len(dtypes := {spec.dtype for spec in net.inputs.values()}) > 1:
            raise UsageError("c takes several inputs of one dtype, got uint8 and float32")
        self.input_type = "float" if dtypes == {"float32"} else "uint8_t"
        integers = all(self.values[name].exact for name in net.outputs)
        self.output_type = "int32_t" if integers else "float"

    # stages

    @property
    def stage(self) -> Stage:
        return self.list[-1]

    def begin(self, value: str, made: Value, title: str) -> Stage:
        """Finish the last stage and begin another one."""
        self.close()
        self.list.append(Stage(len(self.list), made, [title]))
        self.open = value
        return self.stage

    def begin_whole(self, made: Value, title: str) -> Stored:
        """Begin a stage whose lines write a whole value; where that value is."""
        target = plain(made, self.begin("", made, title).index)
        self.index_of(target.memory)
        return target

    def begin_pixels(self, value: str, source: Stored, title: str) -> Stage:
        """Begin a stage that loads each pixel of a stored value into `x`."""
        stage = self.begin(value, source.value, title)
        self.loop_over_pixels()
        self.load_pixel(source, "x")
        return stage

    def line(self, text: str) -> None:
        self.stage.body.append(text)

    def declare(self, text: str) -> None:
        self.stage.head.append(text)

    def close(self) -> None:
        """Finish the open stage: store its value in memory, or in the output."""
        name, self.open = self.open, ""
        if not name:
            return
        stage = self.stage
        if self.uses[name] == 1 and name in self.output_offsets:
            x = self.scratch(stage.bytes)
            self.to_output(name)
        else:
            target = plain(stage.current, stage.index)
            old = next((s.memory for s in stage.replaces if self.can_replace(s, target)), None)
            target = replace(target, memory=old or target.memory)
            assert target.memory is not None
            self.index_of(target.memory)
            if stage.pixels == 1 and target.is_words and old is None:
                x = self.pointer(target)
                target.memory.units = max(target.memory.units, stage.channel_bytes * stage.channels)
            else:
                x = self.scratch(stage.bytes)
                self.store_pixel(target)
            self.stored[name] = target
        stage.head.insert(0, f"value_t *{'pair' if stage.pairs else 'x'} = {x};")

    def can_replace(self, old: Stored, new: Stored) -> bool:
        """Whether a new value may overwrite an old one, which no later stage reads."""
        others = [s for name, s in self.stored.items() if self.uses[name] > 0] + self.stage.keeps
        others += [s for s in self.stage.replaces if not s.is_plain]  # read in another order
        alike = BITS.get(old.form) == BITS[new.form] and old.is_plain and old.shape == new.shape
        return old.memory is not None and alike and all(other.memory is not old.memory for other in others)

    def to_output(self, name: str) -> None:
        """Add the line that writes the current pixel to the output."""
        store = "store_integers"
        if self.output_type == "float":
            store = "store_floats"
            self.as_real()
        stage = self.stage
        at = index(self.output_offsets[name], stage.pixel)
        self.line(f"{store}(x, {stage.channels}, output, {at}, {stage.pixels});")

    # memory

    def index_of(self, memory: Memory | None) -> int:
        """The number of a part of the arena; lines name it by that until the arena is laid out."""
        assert memory is not None
        return self.memories.setdefault(memory, len(self.memories))

    def pointer(self, stored: Stored) -> str:
        """C expression of the address of a value's memory."""
        return "input" if stored.memory is None else self.address(stored.memory)

    def address(self, memory: Memory) -> str:
        memory.last = max(memory.last, self.stage.index)
        return f"MEMORY(@{self.index_of(memory)}@)"

    def scratch(self, size: int) -> str:
        """Memory for one stage."""
        return self.address(Memory(size, self.stage.index, self.stage.index))

    def value(self, name: str) -> Stored:
        """A value in memory."""
        if self.open == name:
            self.close()
        return self.stored[name]

    def even(self, name: str, *, axes: bool = False) -> Stored:
        """A value, or a copy of it, with evenly spaced channels and pixels, or with `axes` along each axis."""
        stored = self.value(name)
        steps = stored.steps() if axes else (stored.step, stored.pixel_step)
        return self.copied(stored, name) if steps is None or None in steps else stored

    # pixels

    def reading(self, name: str, value: str, title: str) -> Stage:
        """A stage that has each pixel of a stored value in `x`: the open one if nothing else reads the value."""
        if self.open == name and self.uses[name] == 1:
            self.open = value
            self.stage.titles.append(title)
            return self.stage
        source = self.even(name)
        stage = self.begin_pixels(value, source, title)
        stage.replaces.append(source)
        return stage

    def title(self, node: Node) -> str:
        """The comment on an operation."""
        shapes = (" x ".join(map(str, self.values[name].shape)) for name in (node.inputs[0], node.output))
        return f"{node.output}: {op_name(node)} {' -> '.join(shapes)}"

    def loop_over_pixels(self) -> None:
        self.stage.loops = [("p", self.stage.pixels)] if self.stage.pixels > 1 else []

    def pixel_of(self, source: Stored) -> str:
        """C expression of the index of the current pixel in a stored value."""
        return index(source.first, [(v, s * (source.pixel_step or 0)) for v, s in self.stage.pixel])

    def load_pixel(self, source: Stored, to: str) -> None:
        at = self.pixel_of(source)
        self.line(f"{LOADS[source.form]}({self.pointer(source)}, {at}, {source.step}, {self.stage.channels}, {to});")

    def store_pixel(self, target: Stored) -> None:
        """Add the line that stores the current pixel of a plain value."""
        count = self.stage.channels
        self.store("x", count, target, index(0, [(v, s * count) for v, s in self.stage.pixel]), 1)

    def store(self, row: str, count: int, target: Stored, at: str, step: int) -> None:
        """Add the line that stores a row of numbers in a value, from an index on."""
        kernel = LOADS[target.form].replace("load", "store")
        self.line(f"{kernel}({row}, {count}, {self.pointer(target)}, {at}, {step});")

    def copied(self, stored: Stored, name: str, *, real: bool = False, ordered: bool = False) -> Stored:
        """A plain copy of a value, or of the vector of its elements, if `ordered`."""
        value = Value(stored.shape, "real") if real else stored.value
        shape = (prod(stored.shape),) if ordered else stored.shape
        target = self.begin_whole(replace(value, shape=shape), f"{name} in order")
        self.copy(stored, target, View.of(stored.shape).axes if ordered else target.axes)
        return target

    def copy(self, source: Stored, target: Stored, axes: tuple[Axis, ...], first: int = 0) -> None:
        """Add lines that copy a value to evenly spaced `axes` of another, from element `first` on."""
        runs = []
        for parts, axis in zip(source.axes, axes, strict=True):
            step = axis[0][1]
            for size, from_step in reversed(parts):
                if size > 1:
                    runs.append((size, from_step, step))
                step *= size
        runs.sort(key=lambda run: (run[0], -run[1] - run[2]))  # the innermost run last
        size, from_step, to_step = runs.pop() if runs else (1, 0, 0)
        loops = [(f"n{k}", *run) for k, run in enumerate(runs)]
        for name, count, _, _ in loops:
            self.line(f"for (int32_t {name} = 0; {name} < {count}; {name}++) {{")
        read = index(source.first, [(name, step) for name, _, step, _ in loops])
        write = index(first, [(name, step) for name, _, _, step in loops])
        self.second(size)
        self.line(f"{LOADS[source.form]}({self.pointer(source)}, {read}, {from_step}, {size}, y);")
        if source.bound is not None and target.form == "real":
            self.line(f"real(y, {size});")
        self.store("y", size, target, write, to_step)
        self.stage.body += ["}"] * len(loops)

    def second(self, count: int) -> None:
        """Declare `y`, a second row of numbers."""
        self.row("value_t *y", 4 * count)

    def row(self, declared: str, size: int) -> None:
        """Declare scratch memory of at least `size` bytes, shared by all operations of a stage."""
        rows = self.stage.rows
        if declared not in rows:
            rows[declared] = Memory(0, self.stage.index, self.stage.index)
            self.declare(f"{declared} = {self.address(rows[declared])};")
        rows[declared].units = max(rows[declared].units, size)

    def fill(self, value: float, *, exact: bool) -> str:
        """C statement that fills all channels of `x` with a value."""
        kernel, number = ("fill", value) if exact else ("fill_real", real(value))
        return f"{kernel}(x, {self.stage.channels}, {number});"

    def as_real(self) -> None:
        """Convert integers in `x` to float."""
        if self.stage.current.bound is not None:
            self.line(f"real(x, {self.stage.channels});")
            self.stage.current = Value(self.stage.current.shape, "real")

    # windows

    def window(self, node: Any, source: Stored, channels: int) -> None:
        """Declare the window of a stage, and loop over its positions."""
        _, height, width = source.shape
        pairs = node.kernel, node.stride, node.dilation, node.padding[::2], source.steps() or ()
        numbers = ", ".join(f"{{{', '.join(map(str, pair))}}}" for pair in pairs)
        self.declare(f"static const window_t window = {{{channels}, {height}, {width}, {numbers}}};")
        self.loop_over_windows()

    def loop_over_windows(self) -> None:
        _, height, width = self.stage.current.shape
        ends = ("i", height), ("j", width)
        self.stage.loops = [(v, end) for v, end in ends if end > 1]
        self.stage.head += [f"const int32_t {v} = 0;" for v, end in ends if end == 1]

    # arrays

    def array(self, field: str, array: np.ndarray) -> str:
        """The name in C of an array of weights of the value that is being planned; one for all with the same bits."""
        array = np.ascontiguousarray(array)
        key = array.dtype.str, array.tobytes()
        if key in self._named:
            return self._named[key]
        name = f"w_{''.join(c if c.isalnum() else '_' for c in self.planned)}_{field}"
        while name in self.arrays:
            name += "_"
        self.arrays[name], self._named[key] = array, name
        return name


def index(first: int, steps: list[tuple[str, int]]) -> str:
    """C expression of first + variable · factor + …"""
    terms = [str(first)] if first else []
    terms += [name if factor == 1 else f"{factor} * {name}" for name, factor in steps if factor]
    return " + ".join(terms) or "0"


def real(number: Any) -> str:
    """A float32 as a C literal, exactly."""
    text = f"{np.float32(number):.9g}"
    return text + ("" if any(c in text for c in ".e") else ".0") + "f"
