"""The stages of an exported net: C functions that each make one value, pixel by pixel."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import accumulate
from math import prod
from typing import Any

import numpy as np

from onebit.export.c.values import BITS, LOADS, STORES, Axis, Memory, Stored, plain
from onebit.packed import Node, PackedNet, Value
from onebit.packed.net import op_name, readers


@dataclass
class Stage:
    """A function in the making.

    value: the name of the value that it makes; made: how far that is: shape, kind and bound of the pixel in `x`.
    titles: what it does, for its comment; loops: variables and their ends. head and body: lines of C.
    room: bytes of `x` per channel. pairs: whether `x` is one of two pixels that are made at once. replaces: values
    whose memory the result may take, pixel by pixel; keeps: those whose memory it may not take. rows: more
    memory, by its declaration in C. input, output: whether it uses them.
    """

    index: int
    value: str
    made: Value
    titles: list[str]
    head: list[str] = field(default_factory=list)
    loops: list[tuple[str, int]] = field(default_factory=list)
    body: list[str] = field(default_factory=list)
    room: int = 4
    pairs: bool = False
    replaces: list[Stored] = field(default_factory=list)
    keeps: list[Stored] = field(default_factory=list)
    rows: dict[str, Memory] = field(default_factory=dict)
    input: bool = False
    output: bool = False

    @property
    def channels(self) -> int:
        return self.made.shape[0] if self.made.shape else 1

    @property
    def pixels(self) -> int:
        return prod(self.made.shape[1:])

    @property
    def bytes(self) -> int:
        """Memory of `x`, or of a pair."""
        return self.room * self.channels * (1 + self.pairs)

    @property
    def pixel(self) -> list[tuple[str, int]]:
        """Index of the current pixel, as variables and factors."""
        steps: list[tuple[str, int]] = []
        step = 1
        for variable, end in reversed(self.loops):
            steps.insert(0, (variable, step))
            step *= end
        return steps


class Stages:
    """Functions, memory and weights of an exported net; the base class of its planner."""

    def __init__(self, net: PackedNet) -> None:
        self.net = net
        self.known = net.values
        self.readers = readers(net)
        self.list: list[Stage] = []
        self.memories: list[Memory] = []
        self.stored: dict[str, Stored] = {}
        self.arrays: dict[str, np.ndarray] = {}
        self.levels: dict[str, tuple[np.float32, np.float32]] = {}  # of real values that are in memory as signs
        self.open: Stage | None = None
        self.uses = dict.fromkeys(self.known, 0)
        for name in [*net.outputs, *(name for node in net.nodes for name in node.inputs)]:
            self.uses[name] += 1
        sizes = [prod(self.known[name].shape) for name in net.outputs]
        self.places = dict(zip(net.outputs, accumulate(sizes, initial=0), strict=False))
        self.output_size = sum(sizes)
        self.integer_output = all(self.known[name].exact for name in net.outputs)

    # stages

    def begin(self, value: str, made: Value, title: str) -> Stage:
        """A new stage; the one before it is finished."""
        self.close()
        stage = Stage(len(self.list), value, made, [title])
        self.list.append(stage)
        self.open = stage
        return stage

    def begin_whole(self, made: Value, title: str) -> tuple[Stage, Stored]:
        """A new stage that writes a whole value by itself, and that value."""
        stage = self.begin("", made, title)
        self.open = None
        target = plain(made, stage.index)
        assert target.memory is not None
        self.keep(target.memory)
        return stage, target

    def close(self) -> None:
        """Finish the open stage: its value goes to memory, or to the output."""
        stage, self.open = self.open, None
        if stage is None:
            return
        made, name = stage.made, stage.value
        if self.uses.get(name) == 1 and name in self.places:
            x = self.scratch(stage, stage.bytes)
            self.to_output(stage, name)
        else:
            target = plain(made, stage.index)
            old = next((s.memory for s in stage.replaces if self.can_replace(s, target, stage)), None)
            direct = stage.pixels == 1 and STORES[target.form] == "store_words" and old is None
            target = replace(target, memory=old or target.memory)
            assert target.memory is not None
            self.keep(target.memory)
            if direct:
                x = self.pointer(target, stage)
                target.memory.units = max(target.memory.units, stage.room * stage.channels)
            else:
                x = self.scratch(stage, stage.bytes)
                at = index(0, [(v, s * stage.channels) for v, s in stage.pixel])
                stage.body.append(
                    f"{STORES[target.form]}(x, {stage.channels}, {self.pointer(target, stage)}, {at}, 1);"
                )
            self.stored[name] = target
        stage.head.insert(0, f"value_t *{'pair' if stage.pairs else 'x'} = {x};")

    def can_replace(self, old: Stored, new: Stored, stage: Stage) -> bool:
        """Whether a new value may take the memory of an old one, which no other stage reads any more."""
        others = [s for name, s in self.stored.items() if self.uses[name] > 0] + stage.keeps
        others += [s for s in stage.replaces if not s.is_plain]  # read in another order beside it
        alike = BITS.get(old.form) == BITS[new.form] and old.is_plain and old.shape == new.shape
        return old.memory is not None and alike and all(other.memory is not old.memory for other in others)

    def to_output(self, stage: Stage, name: str) -> None:
        """The line that writes the current pixel to the output."""
        if not self.integer_output:
            self.as_real(stage)
        store = "store_integers" if self.integer_output else "store_floats"
        place = index(self.places[name], stage.pixel)
        stage.body.append(f"{store}(x, {stage.channels}, output, {place}, {stage.pixels});")
        stage.output = True

    # memory

    def keep(self, memory: Memory) -> None:
        if memory not in self.memories:
            self.memories.append(memory)

    def pointer(self, stored: Stored, stage: Stage) -> str:
        """C of the beginning of a value's memory, for a stage."""
        if stored.memory is None:
            stage.input = True
            return "input"
        return self.address(stored.memory, stage)

    def address(self, memory: Memory, stage: Stage) -> str:
        memory.last = max(memory.last, stage.index)
        self.keep(memory)
        return f"MEMORY(@{self.memories.index(memory)}@)"

    def scratch(self, stage: Stage, size: int) -> str:
        """Memory for one stage."""
        return self.address(Memory(size, stage.index, stage.index), stage)

    def value(self, name: str) -> Stored:
        """A value in memory."""
        if self.open is not None and self.open.value == name:
            self.close()
        return self.stored[name]

    # pixels

    def reading(self, name: str, value: str, title: str) -> Stage:
        """A stage whose `x` holds each pixel of a stored value: the open one if nothing else needs the value."""
        stage = self.open
        if stage is not None and stage.value == name and self.uses[name] == 1:
            stage.value = value
            stage.titles.append(title)
            return stage
        source = self.even(name)
        stage = self.begin(value, source.described(self.known[name].kind), title)
        self.over_pixels(stage)
        stage.body.append(self.load_pixel(stage, source, "x"))
        stage.replaces.append(source)
        return stage

    def over_pixels(self, stage: Stage) -> None:
        stage.loops = [("p", stage.pixels)] if stage.pixels > 1 else []

    def load_pixel(self, stage: Stage, source: Stored, to: str) -> str:
        at = index(source.first, [(v, s * (source.pixel_step or 0)) for v, s in stage.pixel])
        pointer = self.pointer(source, stage)
        return f"{LOADS[source.form]}({pointer}, {at}, {source.step}, {stage.channels}, {to});"

    def even(self, name: str) -> Stored:
        """A value whose pixels and channels are evenly spaced; a copy if they are not."""
        stored = self.value(name)
        return stored if stored.step is not None and stored.pixel_step is not None else self.copied(stored, name)

    def copied(self, stored: Stored, name: str, *, real: bool = False, shape: tuple[int, ...] | None = None) -> Stored:
        """A plain copy of a value, or of its numbers in another shape."""
        value = Value(stored.shape, "real") if real else stored.described(self.known[name].kind, shape)
        stage, target = self.begin_whole(value, f"{name} in order")
        in_shape = target.reshaped(stored.shape)
        assert in_shape is not None
        self.copy(stage, stored, target, in_shape.axes)
        return target

    def copy(self, stage: Stage, source: Stored, target: Stored, axes: tuple[Axis, ...], first: int = 0) -> None:
        """Lines that copy a value to even `axes` of another, from element `first` on."""
        runs = []
        for parts, axis in zip(source.axes, axes, strict=True):
            step = axis[0][1]
            for size, from_step in reversed(parts):
                if size > 1:
                    runs.append((size, from_step, step))
                step *= size
        runs.sort(key=lambda run: (run[0], -run[1] - run[2]))  # the innermost run last
        size, from_step, to_step = runs.pop() if runs else (1, 0, 0)
        names = [f"n{k}" for k in range(len(runs))]
        for name, (count, _, _) in zip(names, runs, strict=True):
            stage.body.append(f"for (int32_t {name} = 0; {name} < {count}; {name}++) {{")
        read = index(source.first, [(n, run[1]) for n, run in zip(names, runs, strict=True)])
        write = index(first, [(n, run[2]) for n, run in zip(names, runs, strict=True)])
        self.second(stage, size)
        stage.body.append(f"{LOADS[source.form]}({self.pointer(source, stage)}, {read}, {from_step}, {size}, y);")
        if source.bound is not None and target.form == "real":
            stage.body.append(f"real(y, {size});")
        stage.body.append(f"{STORES[target.form]}(y, {size}, {self.pointer(target, stage)}, {write}, {to_step});")
        stage.body += ["}"] * len(runs)

    def second(self, stage: Stage, count: int) -> None:
        """Another row of numbers beside `x`, named y."""
        self.row(stage, "value_t *y", 4 * count)

    def row(self, stage: Stage, declared: str, size: int) -> None:
        """Memory of `size` bytes that all operations of a stage share."""
        if declared not in stage.rows:
            stage.rows[declared] = Memory(0, stage.index, stage.index)
            stage.head.append(f"{declared} = {self.address(stage.rows[declared], stage)};")
        stage.rows[declared].units = max(stage.rows[declared].units, size)

    def as_real(self, stage: Stage) -> None:
        """Integers of the pixel become real."""
        if stage.made.bound is not None:
            stage.body.append(f"real(x, {stage.channels});")
            stage.made = Value(stage.made.shape, "real")

    # windows

    def window(self, stage: Stage, node: Any, source: Stored, channels: int) -> None:
        """The window of a stage, and its loops."""
        steps = source.steps()
        assert steps is not None
        _, height, width = source.shape
        pairs = node.kernel, node.stride, node.dilation, node.padding[::2]
        numbers = [f"{{{a}, {b}}}" for a, b in pairs] + [f"{{{', '.join(map(str, steps))}}}"]
        stage.head.append(f"static const window_t window = {{{channels}, {height}, {width}, {', '.join(numbers)}}};")
        self.over_places(stage)

    def over_places(self, stage: Stage) -> None:
        _, height, width = stage.made.shape
        stage.loops = [(v, end) for v, end in (("i", height), ("j", width)) if end > 1]
        stage.head += [f"const int32_t {v} = 0;" for v, end in (("i", height), ("j", width)) if end == 1]

    def evenly(self, name: str) -> Stored:
        stored = self.value(name)
        return self.copied(stored, name) if stored.steps() is None else stored

    # arrays

    def array(self, value: str, field: str, array: np.ndarray) -> str:
        """The name in C of an array of weights."""
        name = f"w_{''.join(c if c.isalnum() else '_' for c in value)}_{field}"
        while name in self.arrays:
            name += "_"
        self.arrays[name] = np.ascontiguousarray(array)
        return name


def index(first: int, steps: list[tuple[str, int]]) -> str:
    """C of first + variable · factor + …"""
    terms = [str(first)] if first else []
    terms += [name if factor == 1 else f"{factor} * {name}" for name, factor in steps if factor]
    return " + ".join(terms) or "0"


def real(number: Any) -> str:
    """A float32 in C, exactly."""
    text = f"{np.float32(number):.9g}"
    return text + ("" if any(c in text for c in ".e") else ".0") + "f"


def title(node: Node, x: Value, made: Value) -> str:
    """What an operation does, in words."""
    shapes = (" x ".join(map(str, value.shape)) for value in (x, made))
    return f"{node.output}: {op_name(node)} {' -> '.join(shapes)}"
