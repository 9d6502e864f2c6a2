"""The text and the weights of a program in plain torch that computes what a packed net does."""

from __future__ import annotations

import builtins
from collections import Counter

from onebit.export.pixels import pixels_in_words
from onebit.export.plain_torch.body import INDENT, PROGRAM_NAMES, Body, all_parts, listing, new_name, plain
from onebit.export.plain_torch.layers import LAYERS
from onebit.packed import InputSpec, PackedNet
from onebit.packed.grid import FLOAT32_EXACT
from onebit.packed.nodes import by_class

ANSWERS = {
    "classes": 'print(*(CLASSES[label] for label in net({}).argmax(dim=1).tolist()), sep="\\n")',
    "labels": 'print(*net({}).argmax(dim=1).tolist(), sep="\\n")',
    "outputs": "print(net({}))",
}


CHECK = """\
        if {x}.dtype != torch.{dtype}:
            raise TypeError(f"expected torch.{dtype}, got {{{x}.dtype}}")
        if {found} != {expected}:
            raise ValueError(f"expected {sized}, got {{tuple({x}.shape)}}")
"""
"""Lines of forward that check an input."""


class Program(Body):
    """A program under construction, node by node; suffix: of the weight file."""

    def __init__(self, net: PackedNet, *, suffix: str) -> None:
        super().__init__(net.values)
        self.net, self.suffix = net, suffix
        self._locals = {*PROGRAM_NAMES.split(), *dir(builtins), *all_parts()}
        self._variables: dict[str, str] = {}  # value -> its variable
        self._readers = Counter([*net.outputs, *(name for node in net.nodes for name in set(node.inputs))])
        wide = any((value.bound or 0) > FLOAT32_EXACT for value in self.values.values())
        self._real = "double" if wide else "float"  # holds every integer of the net
        several = len(net.inputs) > 1
        self._taken = {name: new_name(name, self._locals) if several else "x" for name in net.inputs}
        for name, spec in net.inputs.items():
            self._assign(name, self._coded(name, spec), 0)
        for index, node in enumerate(net.nodes, start=1):
            arguments = [self._variables[name] for name in node.inputs]
            self._assign(node.output, by_class(LAYERS, node)(self, node, *arguments), index)

    # ----------------------------------------------------------------------------------------------------- forward pass
    def _assign(self, name: str, expression: str, index: int) -> None:
        """Write the line of a value, in `x` if only the next node, of this index, reads it."""
        following = self.net.nodes[index].inputs if index < len(self.net.nodes) else self.net.outputs
        read_next = self._readers[name] == 1 and name in following and len(self._taken) == 1
        variable = "x" if read_next else new_name("coded" if name in self._taken else name, self._locals)
        self._variables[name] = self.step(expression, into=variable)

    def _coded(self, name: str, spec: InputSpec) -> str:
        x = f"{self._taken[name]}.{self._real}()"
        if spec.coding == "integer":
            return f"2 * {x} - 255"
        if spec.mean is None or spec.std is None:
            return x
        moments = ("mean", spec.mean), ("std", spec.std)
        mean, std = (self.parameter(f"{name}_{what}", array, len(spec.shape)) for what, array in moments)
        return f"({x} - {mean}) / {std}"

    # ------------------------------------------------------------------------------------------------------- whole text
    def text(self) -> str:
        """The program."""
        net, classes = self.net, ""
        shape = self.values[net.outputs[0]].shape
        answer, what, several = "outputs", "the outputs", len(net.inputs) > 1
        names = "*inputs" if several else "inputs"
        read_inputs = "torch.from_numpy(np.load(sys.argv[1])).split(100)"
        held = "a .npy file holds as `Net` takes them"
        if several:
            read_inputs = "zip(*(torch.from_numpy(np.load(path)).split(100) for path in sys.argv[1:]), strict=True)"
            held = "a .npy file for each holds as `Net` takes them"
        if isinstance(net.output, str) and len(shape) == 1 and shape[0] > 1 and net.compared == "labels":
            answer, what = "classes" if net.classes else "labels", "the class"
        if net.classes:
            classes = "\n\n" + listing("CLASSES = [", [*map(repr, net.classes)], "]", indent="")
        used = [text for name, text in all_parts().items() if name in self.parts]
        imported, read = "", 'torch.load(path, map_location="cpu", weights_only=True)'
        if self.suffix == ".safetensors":
            imported, read = "import safetensors.torch\n", "safetensors.torch.load_file(path)"
        parts = "".join(f"{text}\n\n\n" for text in used)
        return f'''\
"""{plain(net.name) or "A net"} in plain torch, written by onebit; its weights are beside it."""

import sys
from pathlib import Path

import numpy as np
{imported}import torch
from torch import Tensor, nn{classes}


{parts}{self._net_text()}


def load(path: str | Path) -> Net:
    """The net with the weights in a file, ready to be used."""
    net = Net()
    net.load_state_dict({read})
    return net.eval()


def main() -> None:
    """Print the weights; or {what} of inputs, which {held}."""
    net = load(Path(__file__).with_suffix("{self.suffix}"))
    if len(sys.argv) == 1:
        for name, weight in net.state_dict().items():
            print(f"{{name}}: {{tuple(weight.shape)}}, {{len(weight.unique())}} values")
        return
    with torch.inference_mode():
        for inputs in {read_inputs}:
            {ANSWERS[answer].format(names)}


if __name__ == "__main__":
    try:
        main()
    except (EOFError, OSError, TypeError, ValueError) as error:
        sys.exit(f"{{sys.argv[-1]}}: {{error}}")
'''

    def _net_text(self) -> str:
        output, double = self.net.output, self._real == "double"
        values = {name: self._variables[name] + ".float()" * double for name in self.net.outputs}
        if isinstance(output, str):
            shape = self.values[output].shape
            given = "the output" if self.net.free and len(shape) == 3 else sized(shape)
            kind, answer = "Tensor", f"{INDENT}return {values[output]}"
        elif isinstance(output, dict):
            kind, given = "dict[str, Tensor]", "outputs by name"
            items = [f"{key!r}: {values[name]}" for key, name in output.items()]
            answer = listing("return {", items, "}", indent=INDENT)
        else:
            kind, given = "tuple[Tensor, ...]", f"{len(output)} outputs"
            answer = listing("return tuple([", [values[name] for name in output], "])", indent=INDENT)
        taken, checks, described = [], "", list[str]()
        for name, spec in self.net.inputs.items():
            variable = self._taken[name]
            label = f"{variable}: " if len(self._taken) > 1 else ""
            meaning = f", {text}," if (text := plain(spec.meaning)) else ""
            free = spec.sizes == "any"
            size = f"(N, {spec.shape[0]}, H, W) of any H and W" if free else sized(spec.shape)
            taken.append(f"{label}{spec.dtype} {size}{meaning}")
            if text := pixels_in_words(self.net, spec):
                described.append(f"{variable if label else 'Inputs'} {'is' if label else 'are'} {text}.")
            found, expected = f"{variable}.shape[1:]", spec.shape
            if free:
                found, expected = f"({variable}.ndim, *{variable}.shape[1:2])", (4, spec.shape[0])
            checks += CHECK.format(x=variable, dtype=spec.dtype, found=found, expected=expected, sized=size)
        pixels = "".join(f"\n\n    {text}" for text in described) + "\n    " * bool(described)
        arguments = ", ".join(f"{variable}: Tensor" for variable in self._taken.values())
        if double:
            self.layers.append(f"{INDENT}self.double()  # float32 does not have all integers of this net")
        layers, steps = "\n".join(["", *self.layers]), "\n".join([*self.steps, answer])
        return f'''\
class Net(nn.Module):
    """{", ".join(taken)} -> {given}.{pixels}"""

    def __init__(self) -> None:
        super().__init__(){layers}

    def forward(self, {arguments}) -> {kind}:
{checks}{steps}'''


def sized(shape: tuple[int, ...]) -> str:
    """The shape of a batch."""
    return f"({', '.join(map(str, ('N', *shape)))})" if shape else "(N,)"
