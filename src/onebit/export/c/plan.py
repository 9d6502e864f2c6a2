"""The stages of every operation of a packed net."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from onebit.errors import UsageError
from onebit.export.c.stages import Stage, Stages, index
from onebit.export.c.values import LOADS, STORES, Stored, plain
from onebit.native.arena import place
from onebit.packed import Node, OneBitWeights, PackedNet, Value, nodes
from onebit.packed.bits import unpack_signs
from onebit.packed.grid import GRID_BITS, MOST_EXACT_TERMS, on_grid
from onebit.packed.net import INPUT, op_name

PART = 96
_FLOAT32_EXACT = 2**24
_INT32 = np.iinfo(np.int32)


class Planner(Stages):
    """Plans a net; `list` then holds its stages."""

    def __init__(self, net: PackedNet) -> None:
        net = signs_before_pools(net)
        super().__init__(net)
        self.code_input()
        for node in net.nodes:
            MAKERS[type(node)](self, node)
            for name in node.inputs:  # only now: what this node reads must outlive a stage that it finishes
                self.uses[name] -= 1
        self.close()
        for name in net.outputs:
            if name in self.stored:  # something else reads it too, or it is a view
                source = self.even(self.value(name), name)
                stage = self.begin("", Value(source.shape, self.known[name].kind, source.bound), f"{name} is an output")
                self.over_pixels(stage)
                stage.body.append(self.load_pixel(stage, source, "x"))
                x = self.scratch(stage, 4 * stage.channels)
                self.to_output(stage, name)
                stage.head.insert(0, f"value_t *x = {x};")
                self.open = None
        self.arena_bytes = self.static_bytes = self.place()
        self.constant_bytes = sum(array.nbytes for array in self.arrays.values())

    def code_input(self) -> None:
        spec = self.net.input
        step, axes = 1, []
        for size in reversed(spec.shape):
            axes.insert(0, ((size, step),))
            step *= size
        form = "floats" if spec.dtype == "float32" else "centered" if spec.coding == "integer" else "bytes"
        bound = None if form == "floats" else 255
        self.stored[INPUT] = Stored(None, form, 0, tuple(axes), bound)
        if spec.mean is not None and spec.std is not None:
            source = self.stored.pop(INPUT)
            if source.pixel_step is None:
                raise AssertionError("axes of the input are evenly spaced")
            stage = self.begin(INPUT, Value(spec.shape, "integer", 255), "the input, standardized")
            self.over_pixels(stage)
            stage.body.append(self.load_pixel(stage, source, "x"))
            mean, std = self.array(INPUT, "mean", spec.mean), self.array(INPUT, "deviation", spec.std)
            stage.body.append(f"standardize(x, {stage.channels}, {mean}, {std});")
            stage.made = Value(spec.shape, "real")

    def place(self) -> int:
        """Give every memory its place; returns the bytes of all."""
        for memory in self.memories:
            memory.place = 0
        used: list[Any] = [memory for memory in self.memories if memory.units]
        return max(8, place(used, 1))

    # values that are views of others

    def view(self, node: Node) -> None:
        (name,) = node.inputs
        stored, shape = self.value(name), self.known[node.output].shape
        made: Stored | None
        if isinstance(node, nodes.Permute):
            made = stored.permuted(node.axes)
        elif isinstance(node, nodes.Repeat):
            made = stored.repeated(node.times)
        elif isinstance(node, nodes.Slice):
            made = stored.sliced(node.start, node.stop, node.step)
            if made is None:
                made = self.copied(stored, name).sliced(node.start, node.stop, node.step)
        else:
            made = stored.reshaped(shape)
            if made is None:  # in the order of the value
                value = Value((prod(shape),), self.known[name].kind, stored.bound)
                self.close()
                stage = self.begin("", value, f"{name} in order")
                flat = plain(value, stage.index)
                self.open = None
                self.keep(flat)
                target = flat.reshaped(stored.shape)
                assert target is not None
                self.copy(stage, stored, target, target.axes)
                made = flat.reshaped(shape)
        assert made is not None
        self.stored[node.output] = made

    def joined(self, node: nodes.Concat | nodes.Pad) -> None:
        """A value that is copied together from others."""
        made = self.known[node.output]
        sources = [self.value(name) for name in node.inputs]
        stage = self.begin("", made, f"{node.output}: {op_name(node)}")
        target = plain(made, stage.index)
        self.open = None
        self.keep(target)
        steps = target.steps()
        assert steps is not None
        first = 0
        if isinstance(node, nodes.Pad):
            self.over_pixels(stage)
            stage.head.insert(0, f"value_t *x = {self.scratch(stage, 4 * stage.channels)};")
            filled = f"fill(x, {stage.channels}, {node.value});"
            if made.bound is None:
                filled = f"fill_real(x, {stage.channels}, {real(node.value)});"
            at = index(0, [(v, s * stage.channels) for v, s in stage.pixel])
            lines = [filled, f"{STORES[target.form]}(x, {stage.channels}, {self.pointer(target, stage)}, {at}, 1);"]
            if stage.pixels > 1:
                lines = [f"for (int32_t p = 0; p < {stage.pixels}; p++) {{", *lines, "}"]
            stage.body += lines
            stage.loops = []
            first = node.channels[0] * steps[0] + node.padding[0] * steps[1] + node.padding[2] * steps[2]
        for source in sources:
            self.copy(stage, source, target, target.axes, first)
            first += source.shape[0] * steps[0]
        self.stored[node.output] = target

    # operations on each number

    def pointwise(self, node: Node) -> None:
        (name,) = node.inputs
        stage = self.reading(name, node.output, self.known[node.output], f"{node.output}: {op_name(node)}")
        count, exact = stage.channels, stage.made.bound is not None
        made, line = self.known[node.output], ""
        if isinstance(node, nodes.Threshold):
            flip = np.where(node.direction > 0, 0, -1).astype(np.int32)
            least = self.array(node.output, "least", node.threshold ^ flip)
            line = f"rising(x, {count}, {least});"
            if flip.any():
                bits = self.array(node.output, "flips", np.packbits(flip != 0, bitorder="little"))
                line = f"threshold(x, {count}, {least}, {bits});"
        elif isinstance(node, nodes.Sign):
            kernel = "sign_integers" if exact else "sign"
            line = f"{kernel}(x, {count});"
            if node.shift is not None:
                shifted = "sign_integers_shifted" if exact else "sign_shifted"
                line = f"{shifted}(x, {count}, {self.array(node.output, 'shift', node.shift)});"
        elif isinstance(node, nodes.Affine):
            if exact and (stage.made.bound or 0) <= _FLOAT32_EXACT:
                self.as_real(stage)
                exact = False
            given = [(field, array) for field in ("scale", "shift") if (array := getattr(node, field)) is not None]
            arrays = ", ".join(self.array(node.output, field, array) for field, array in given)
            kernel = ("affine" if len(given) == 2 else given[0][0]) + "_integers" * exact + "_by" * (len(given) == 1)
            line = f"{kernel}(x, {count}, {arrays});"
        elif isinstance(node, nodes.Relu):
            line = f"clamp_integers(x, {count}, 0, {_INT32.max});" if exact else f"relu(x, {count});"
        elif isinstance(node, nodes.Hardtanh):
            line = f"clamp_integers(x, {count}, -1, 1);" if exact else f"clamp(x, {count}, {real(-1)}, {real(1)});"
        else:
            self.as_real(stage)
            if isinstance(node, nodes.Prelu):
                line = f"prelu(x, {count}, {self.array(node.output, 'slope', node.slope)});"
            else:
                assert isinstance(node, nodes.Clamp)
                low, high = (None if bound is None else real(bound[0]) for bound in (node.low, node.high))
                if low and high:
                    line = f"clamp(x, {count}, {low}, {high});"
                else:
                    line = f"at_least(x, {count}, {low});" if low else f"at_most(x, {count}, {high});"
        stage.body.append(line)
        stage.made = made

    def combine(self, node: nodes.Add | nodes.Multiply) -> None:
        made = self.known[node.output]
        names = list(node.inputs)
        if self.open is not None and self.open.value == names[1]:
            names.reverse()
        other = self.even(self.value(names[1]), names[1])
        stage = self.reading(names[0], node.output, made, f"{node.output}: {op_name(node)} {node.inputs[1]}")
        count, exact = stage.channels, made.exact
        if not exact:
            self.as_real(stage)
        y = "y"
        words = LOADS[other.form] == "load_words" and other.step in (0, 1) and (other.bound is None) == (made.bound is None)
        if words:
            at = index(other.first, [(v, s * (other.pixel_step or 0)) for v, s in stage.pixel])
            y = f"(value_t *){self.pointer(other, stage)} + {at}"
        else:
            self.second(stage, count)
            stage.body.append(self.load_pixel(stage, other, "y"))
            if not exact and other.bound is not None:
                stage.body.append(f"real(y, {count});")
        kernel = "multiply" if isinstance(node, nodes.Multiply) else "add" + "_integers" * exact
        stage.body.append(f"{kernel}(x, {y}, {count});")
        stage.replaces.append(other)
        stage.made = made

    # windows

    def window(self, stage: Stage, node: Any, source: Stored, channels: int) -> None:
        """The window of a stage, and its loops."""
        steps = source.steps()
        assert steps is not None
        _, height, width = source.shape
        pairs = node.kernel, node.stride, node.dilation, node.padding[::2]
        numbers = [f"{{{a}, {b}}}" for a, b in pairs] + [f"{{{', '.join(map(str, steps))}}}"]
        stage.head.append(
            f"static const window_t window = {{{channels}, {height}, {width}, {', '.join(numbers)}}};"
        )
        self.over_places(stage)

    def over_places(self, stage: Stage) -> None:
        _, height, width = stage.made.shape
        stage.loops = [(v, end) for v, end in (("i", height), ("j", width)) if end > 1]
        stage.head += [f"const int32_t {v} = 0;" for v, end in (("i", height), ("j", width)) if end == 1]

    def evenly(self, name: str) -> Stored:
        stored = self.value(name)
        return self.copied(stored, name) if stored.steps() is None else stored

    def matmul(self, node: Any) -> None:
        (name,) = node.inputs
        made, x, one_bit = self.known[node.output], self.known[name], isinstance(node, OneBitWeights)
        rows = self.rows_of(node)
        dense = isinstance(node, (nodes.Dense, nodes.RealDense))
        if dense:
            source, rows = self.column_of(name, rows)
        else:
            source = self.evenly(name)
        if not one_bit and source.bound is not None and source.bound > 2**GRID_BITS:
            source = self.copied(source, name, real=True)
        if source.bound is None and not self.covers(source):
            source = self.copied(source, name)
        text = f"{node.output}: {op_name(node)} {' x '.join(map(str, x.shape))} -> {' x '.join(map(str, made.shape))}"
        stage = self.begin(node.output, made, text)
        groups = getattr(node, "groups", 1)
        stage.keeps.append(source)
        weights = self.array(node.output, "signs" if one_bit else "weights", self.stored_rows(node, rows))
        if not dense:
            self.window(stage, node, source, node.group_channels)
        padding = getattr(node, "padding_value", 0)
        signs = one_bit and source.form == "signs" and node.centre is None and self.has_bytes(node, source)
        if signs:
            self.sign_products(stage, node, source, weights, padding)
            stage.made = Value(made.shape, "integer", node.terms)
        else:
            self.part_products(stage, node, source, weights, padding)
        if groups > 1:
            stage.body = [f"for (int32_t g = 0; g < {groups}; g++) {{", *stage.body, "}"]
        self.scaled(stage, node)

    def scaled(self, stage: Stage, node: Any) -> None:
        """The factors of a product."""
        count = stage.channels
        if not isinstance(node, OneBitWeights):
            units = self.array(node.output, "units", on_grid(node.weight)[1])
            stage.body.append(f"scale_by(x, {count}, {units});")
            stage.made = Value(stage.made.shape, "real")
            return
        if node.scale is not None or node.centre is not None:
            self.as_real(stage)
        if node.scale is not None:
            stage.body.append(f"scale_by(x, {count}, {self.array(node.output, 'scale', node.scale)});")
        if node.centre is not None:
            center = self.array(node.output, "center", node.centre)
            groups = getattr(node, "groups", 1)
            if groups == 1:
                stage.body.append(f"center(x, {count}, totals[0], {center});")
            else:
                each = count // groups
                stage.body.append(f"for (int32_t g = 0; g < {groups}; g++)")
                stage.body.append(f"center(x + {each} * g, {each}, totals[g], {center} + {each} * g);")

    def part_products(self, stage: Stage, node: Any, source: Stored, weights: str, padding: int) -> None:
        """Sums of the inputs, or of their integers on a grid, with rows of weights."""
        one_bit, terms = isinstance(node, OneBitWeights), node.terms
        groups = getattr(node, "groups", 1)
        outputs = node.outputs // groups
        on_a_grid = source.bound is None
        wide = on_a_grid or not one_bit
        dense = isinstance(node, (nodes.Dense, nodes.RealDense))
        pointer, load = self.pointer(source, stage), LOADS[source.form]
        each = -(-terms // 8) if one_bit else terms
        first = index(source.first, [])
        y, rows = "x", weights
        if wide:
            stage.room = 8
            y = "(wide_t *)x"
        if groups > 1:
            steps = source.steps()
            assert steps is not None
            first = index(source.first, [("g", steps[0] * node.group_channels)])
            y, rows = f"{y} + {outputs} * g", f"{weights} + {each * outputs} * g"
        words = load == "load_words" and source.step in (0, 1)
        if dense and one_bit and on_a_grid and words and node.centre is None:
            stage.body.append(f"dense({pointer}, {terms}, {weights}, {outputs}, x);")
            stage.made = Value(stage.made.shape, "real")
            return
        if node.scale is not None or node.centre is not None:
            self.as_real(stage)
        if node.scale is not None:
            stage.body.append(f"scale_by(x, {count}, {self.array(node.output, 'scale', node.scale)});")
        if node.centre is not None:
            center = self.array(node.output, "center", node.centre)
            groups = getattr(node, "groups", 1)
            if groups == 1:
                stage.body.append(f"center(x, {count}, totals[0], {center});")
            else:
                each = count // groups
                stage.body.append(f"for (int32_t g = 0; g < {groups}; g++)")
                stage.body.append(f"center(x + {each} * g, {each}, totals[g], {center} + {each} * g);")

    def part_products(self, stage: Stage, node: Any, source: Stored, weights: str, padding: int) -> None:
        """Sums of the inputs, or of their integers on a grid, with rows of weights."""
        one_bit, terms = isinstance(node, OneBitWeights), node.terms
        groups = getattr(node, "groups", 1)
        outputs = node.outputs // groups
        on_a_grid = source.bound is None
        wide = on_a_grid or not one_bit
        dense = isinstance(node, (nodes.Dense, nodes.RealDense))
        pointer, load = self.pointer(source, stage), LOADS[source.form]
        each = -(-terms // 8) if one_bit else terms
        first = index(source.first, [])
        y, rows = "x", weights
        if wide:
            stage.room = 8
            y = "(wide_t *)x"
        if groups > 1:
            steps = source.steps()
            assert steps is not None
            first = index(source.first, [("g", steps[0] * node.group_channels)])
            y, rows = f"{y} + {outputs} * g", f"{weights} + {each * outputs} * g"
        words = load == "load_words" and source.step in (0, 1)
        if dense and one_bit and on_a_grid and words and node.centre is None:
            at = f" + {source.first}" if source.first else ""
            stage.body.append(f"dense((value_t *){pointer}{at}, {terms}, {weights}, {outputs}, x);" if at else f"dense({pointer}, {terms}, {weights}, {outputs}, x);")
            stage.made = Value(stage.made.shape, "real")
            return
        if on_a_grid:
            size = self.size_of(source)
            least = real(abs(padding))
            cast = "(const value_t *)" if source.memory is None else ""
            stage.head.append(f"const grid_t grid = grid_of({cast}{pointer}, {size}, {least});")
        kernel = "one_bit" + "_wide" * wide if one_bit else "products"
        center = one_bit and node.centre is not None
        lines = []
        count = f"part_size({terms}, k)" if terms > PART else str(terms)
        k = "k" if terms > PART else "0"
        if center:
            lines.append("int64_t total = 0;")
        if dense:
            column = "part"
            at = index(source.first, [("k", source.step or 0)] if terms > PART else [])
            inner = [f"{load}({pointer}, {at}, {source.step}, {count}, part);"]
            if words:
                place = f"(value_t *){pointer}" + (f" + {at}" if at != "0" else "")
                inner, column = ([], place) if not on_a_grid else ([], column)
            if on_a_grid:
                inner.append(f"to_grid({place if words else 'part'}, {count}, grid.power, part);")
        else:
            stage.head.append(f"value_t *column = {self.scratch(stage, 4 * terms)};")
            given = f"&window, {load}, {pointer}, {first}, i, j"
            if isinstance(node, nodes.Transposed):
                lines.append(f"gather_transposed({given}, column);")
                if on_a_grid:
                    lines.append(f"to_grid(column, {terms}, grid.power, column);")
            else:
                outside = f"grid.power > 0 ? rounded({real(padding)} * grid.power) : 0" if on_a_grid else padding
                stage.head.append(f"const value_t outside = {{{outside if padding else 0}}};")
                kept = max(0, node.kernel[1] - node.stride[1]) if groups == node.dilation[1] == 1 else 0
                kept = f"j ? {kept} : 0" if kept and stage.made.shape[2] > 1 else "0"
                if on_a_grid:
                    lines.append(f"gather_grid({given}, outside, {kept}, grid.power, column);")
                else:
                    lines.append(f"gather({given}, outside, {kept}, column);")
            column, inner = ("column + k" if terms > PART else "column"), []
        inner.append(f"{kernel}({column}, {k}, {terms}, {rows}, {outputs}, {y});")
        if center:
            inner.append(f"total += total_of({column}, {count});")
        if terms > PART:
            inner = [f"for (int32_t k = 0; k < {terms}; k += PART) {{", *inner, "}"]
        lines += inner
        if wide:
            part = f"x + {outputs} * g" if groups > 1 else "x"
            unit = "grid.unit" if on_a_grid else real(1)
            lines.append(f"{'grid_real' if one_bit else 'wide_real'}({y}, {outputs}, {unit}, {part});")
            stage.made = Value(stage.made.shape, "real")
        elif one_bit:
            stage.made = Value(stage.made.shape, "integer", terms * max(source.bound or 0, abs(padding)))
        if center:
            stage.head.append(f"float totals[{groups}];")
            lines.append(f"totals[{'g' if groups > 1 else 0}] = (float)total{' * grid.unit' if on_a_grid else ''};")
        stage.body += lines

    def sign_products(self, stage: Stage, node: Any, source: Stored, weights: str, padding: int) -> None:
        """Sums of signs with rows of signs, 32 at once."""
        terms, groups = node.terms, getattr(node, "groups", 1)
        outputs, each = node.outputs // groups, -(-node.terms // 8)
        pointer = self.pointer(source, stage)
        if isinstance(node, nodes.Dense):
            at = f" + {source.first // 8}" if source.first else ""
            pointer = f"(const uint8_t *){pointer}{at}" if at else pointer
            stage.body.append(f"signs_dot({pointer}, {terms}, {weights}, {outputs}, x);")
            return
        rows, sums = weights, "x"
        steps = source.steps()
        assert steps is not None
        first = index(source.first, [("g", steps[0] * node.group_channels)] if groups > 1 else [])
        if groups > 1:
            rows, sums = f"{weights} + {each * outputs} * g", f"x + {outputs} * g"
        stage.head.append(f"uint8_t *column = {self.scratch(stage, each)};")
        stage.head.append(f"uint8_t *inside = {self.scratch(stage, each)};")
        outside = 255 if padding > 0 else 0
        stage.body.append(f"gather_signs(&window, {pointer}, {first}, i, j, {outside}, column, inside);")
        if padding or not any(node.padding):
            stage.body.append(f"signs_dot(column, {terms}, {rows}, {outputs}, {sums});")
        else:
            stage.body.append(f"signs_dot_inside(column, inside, {terms}, {rows}, {outputs}, {sums});")

    def has_bytes(self, node: Any, source: Stored) -> bool:
        """Whether the signs of each pixel are whole bytes, side by side."""
        if isinstance(node, nodes.Dense):
            return source.step == 1 and source.first % 8 == 0 and node.terms % 8 == 0
        steps = source.steps()
        if steps is None or isinstance(node, nodes.Transposed) or node.group_channels % 8 or steps[0] != 1:
            return False
        return not any(number % 8 for number in (source.first, *steps[1:]))

    def covers(self, source: Stored) -> bool:
        """Whether a value consists of all numbers in its memory."""
        return prod(count for axis in source.axes for count, step in axis if step) == self.size_of(source)

    def size_of(self, source: Stored) -> int:
        """How many numbers are in the memory of a value."""
        return source.memory.count if source.memory is not None else prod(self.net.input.shape)

    def rows_of(self, node: Any) -> np.ndarray:
        """(O, K): weights as ±1, or as integers on their grids."""
        if isinstance(node, OneBitWeights):
            return unpack_signs(node.signs, node.in_features)
        if node.terms > MOST_EXACT_TERMS:
            raise UsageError(
                f"--to c takes rows of at most {MOST_EXACT_TERMS:,} real weights; {node.output!r} has {node.terms:,}"
            )
        return on_grid(node.weight)[0].astype(np.int32)

    def stored_rows(self, node: Any, rows: np.ndarray) -> np.ndarray:
        return np.packbits(rows > 0, axis=1, bitorder="little") if isinstance(node, OneBitWeights) else rows

    def column_of(self, name: str, rows: np.ndarray) -> tuple[Stored, np.ndarray]:
        """A vector whose numbers are evenly spaced, and the weights in its order."""
        source = self.value(name)
        if source.step is not None:
            return source, rows
        places = np.zeros(1, np.int64)
        for size, step in source.axes[0]:
            places = np.add.outer(places, np.arange(size) * step).reshape(-1)
        order = np.argsort(places, kind="stable")
        if (np.diff(places[order]) == 1).all():
            first = source.first + int(places[order[0]])
            return Stored(source.memory, source.form, first, (((places.size, 1),),), source.bound), rows[:, order]
        return self.copied(source, name), rows

    # pools

    def pool(self, node: nodes.MaxPool | nodes.AveragePool) -> None:
        (name,) = node.inputs
        made, source = self.known[node.output], self.evenly(name)
        exact, largest = source.bound is not None, isinstance(node, nodes.MaxPool)
        bound = source.bound
        if isinstance(node, nodes.AveragePool) and exact:
            bound = prod(node.kernel) * (source.bound or 0)
            if bound > _INT32.max:
                raise UsageError(f"--to c takes averages of integers whose sums fit 32 bits; those of {node.output!r} do not")
        title = f"{node.output}: {op_name(node)} {' x '.join(map(str, source.shape))} -> {' x '.join(map(str, made.shape))}"
        stage = self.begin(node.output, Value(made.shape, "integer" if exact else "real", bound), title)
        stage.keeps.append(source)
        self.window(stage, node, source, stage.channels)
        self.second(stage, stage.channels)
        if not largest:
            zero = f"fill(x, {stage.channels}, 0);" if exact else f"fill_real(x, {stage.channels}, {real(0)});"
            stage.body.append(zero)
        kernel = ("larger" if largest else "add") + "_integers" * exact
        pointer = self.pointer(source, stage)
        at = index(source.first, [])
        stage.body.append(f"pool(&window, {LOADS[source.form]}, {pointer}, {at}, i, j, {kernel}, {int(not largest)}, x, y);")
        if largest and not exact:
            stage.body.append(f"no_negative_zero(x, {stage.channels});")
        if isinstance(node, nodes.AveragePool) and not node.sums:
            self.as_real(stage)
            by = self.divisors(node, source.shape)
            if (by == by.flat[0]).all():
                stage.body.append(f"divide(x, {stage.channels}, {real(by.flat[0])});")
            else:
                array = self.array(node.output, "divisors", by.astype(np.float32))
                stage.body.append(f"divide(x, {stage.channels}, {array}[{index(0, stage.pixel)}]);")
        stage.made = made

    def divisors(self, node: nodes.AveragePool, shape: tuple[int, ...]) -> np.ndarray:
        """Pixels of each window."""
        counts = []
        made = node.places(Value(shape, "real"))
        for axis in (0, 1):
            starts = np.arange(made[axis]) * node.stride[axis] - node.padding[2 * axis]
            taps = starts[:, None] + np.arange(node.kernel[axis]) * node.dilation[axis]
            inside = (taps >= 0) & (taps < shape[1 + axis])
            counts.append(np.full(made[axis], node.kernel[axis]) if node.count_padding else inside.sum(axis=1))
        return np.outer(*counts).reshape(-1)

    def adaptive(self, node: nodes.AdaptiveAveragePool) -> None:
        (name,) = node.inputs
        made, source = self.known[node.output], self.evenly(name)
        stage = self.begin(node.output, made, f"{node.output}: {op_name(node)} -> {' x '.join(map(str, made.shape))}")
        stage.keeps.append(source)
        self.over_places(stage)
        _, height, width = source.shape
        spans = []
        for v, size, count in (("i", height, node.size[0]), ("j", width, node.size[1])):
            spans += ["0", str(size)] if count == 1 else [
                f"{v} * {size} / {count}",
                f"(({v} + 1) * {size} + {count - 1}) / {count}",
            ]
        stage.head = [line for line in stage.head if not line.startswith("const int32_t")]
        kernel = "average" if source.bound is None else "average_integers"
        stage.head.append(f"static const int32_t steps[3] = {{{', '.join(map(str, source.steps() or ()))}}};")
        stage.body.append(
            f"{kernel}({LOADS[source.form]}, {self.pointer(source, stage)}, {source.first}, steps, {stage.channels}, "
            f"{', '.join(spans)}, x);"
        )


def signs_before_pools(net: PackedNet) -> PackedNet:
    """The same net with pools of signs in place of signs of pools, which take a small part of the memory.

    Rising thresholds commute with the maximum: max(x) >= t where some x >= t.
    """
    readers: dict[str, list[Node]] = {}
    for node in net.nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    changed: dict[str, Node] = {}
    for pool in net.nodes:
        only = readers.get(pool.output, [])
        if not isinstance(pool, nodes.MaxPool) or len(only) != 1 or pool.output in net.outputs:
            continue
        (sign,) = only
        if isinstance(sign, nodes.Sign) or (isinstance(sign, nodes.Threshold) and (sign.direction > 0).all()):
            changed[pool.output] = replace(sign, inputs=pool.inputs, output=pool.output)
            changed[sign.output] = replace(pool, inputs=(pool.output,), output=sign.output)
    return replace(net, nodes=tuple(changed.get(node.output, node) for node in net.nodes)) if changed else net


def real(number: Any) -> str:
    """A float32 in C, exactly."""
    text = f"{np.float32(number):.9g}"
    return text + ("" if any(c in text for c in ".e") else ".0") + "f"


MAKERS: dict[type[Node], Any] = {
    nodes.Dense: Planner.matmul,
    nodes.RealDense: Planner.matmul,
    nodes.Conv: Planner.matmul,
    nodes.RealConv: Planner.matmul,
    nodes.ConvTranspose: Planner.matmul,
    nodes.RealConvTranspose: Planner.matmul,
    nodes.MaxPool: Planner.pool,
    nodes.AveragePool: Planner.pool,
    nodes.AdaptiveAveragePool: Planner.adaptive,
    nodes.Affine: Planner.pointwise,
    nodes.Threshold: Planner.pointwise,
    nodes.Sign: Planner.pointwise,
    nodes.Relu: Planner.pointwise,
    nodes.Prelu: Planner.pointwise,
    nodes.Hardtanh: Planner.pointwise,
    nodes.Clamp: Planner.pointwise,
    nodes.Add: Planner.combine,
    nodes.Multiply: Planner.combine,
    nodes.Concat: Planner.joined,
    nodes.Pad: Planner.joined,
    nodes.Flatten: Planner.view,
    nodes.Reshape: Planner.view,
    nodes.Permute: Planner.view,
    nodes.Repeat: Planner.view,
    nodes.Slice: Planner.view,
}
"""How each operation is planned."""
