"""The text of a program in plain torch that computes what a packed net does, and the weights that it loads."""

from __future__ import annotations

import builtins
from collections import Counter

from onebit.export.pixels import pixels_in_words
from onebit.export.plain_torch.body import INDENT, Body, all_parts, fits_line
from onebit.export.plain_torch.layers import LAYERS, SEPARATE, fits, sides
from onebit.export.plain_torch.text import LONGEST, PROGRAM_NAMES, Names, listing, plain, quoted
from onebit.packed import MaxPool, PackedNet, Quantize
from onebit.packed.grid import FLOAT32_EXACT
from onebit.packed.net import INPUT
from onebit.packed.nodes import by_class

NESTED = 90
"""Longest expression that applies one layer to the result of another, so that it fits into a line."""
LOAD = '''\
def load(path: str | Path) -> Net:
    """The net with the weights in a file, ready to be used."""
    net = Net()
    net.load_state_dict({reader})
    return net.eval()'''
READERS = {
    ".safetensors": "safetensors.torch.load_file(path)",
    **dict.fromkeys((".pth", ".pt"), 'torch.load(path, map_location="cpu", weights_only=True)'),
}
MAIN = '''\
def main() -> None:
    """Print the weights; or {what} of inputs, which a .npy file holds as `Net` takes them."""
    net = load(Path(__file__).with_suffix("{suffix}"))
    if len(sys.argv) == 1:
        for name, weight in net.state_dict().items():
            print(f"{{name}}: {{tuple(weight.shape)}}, {{len(weight.unique())}} values")
        return
    with torch.inference_mode():
        for inputs in torch.from_numpy(np.load(sys.argv[1])).split(100):
            {answer}


if __name__ == "__main__":
    try:
        main()
    except (EOFError, OSError, TypeError, ValueError) as error:
        sys.exit(f"{{sys.argv[-1]}}: {{error}}")
'''
ANSWERS = {
    "classes": 'print(*(CLASSES[label] for label in net(inputs).argmax(dim=1).tolist()), sep="\\n")',
    "labels": 'print(*net(inputs).argmax(dim=1).tolist(), sep="\\n")',
    "outputs": "print(net(inputs))",
}


class Program:
    """A program while its lines are written, node by node.

    Args:
        net: the packed net.
        suffix: of the file with its weights, which is beside the program.
    """

    def __init__(self, net: PackedNet, *, suffix: str) -> None:
        self.net, self.suffix = net, suffix
        self.known = net.values
        self.body = Body(self.known)
        self._locals = Names([*PROGRAM_NAMES.split(), *dir(builtins), *all_parts()])
        self._places: dict[str, str] = {}  # value -> the variable that has it
        self._readers = Counter(name for node in net.nodes for name in set(node.inputs))
        self._readers.update(net.outputs)
        wide = any((value.bound or 0) > FLOAT32_EXACT for value in self.known.values())
        self._real = "double" if wide else "float"  # has every integer of the net
        self._waiting = INPUT, self._coded()  # a value and its expression, which no line has yet
        for index, node in enumerate(self.net.nodes):
            arguments = [self._argument(name, index) for name in node.inputs]
            self._waiting = node.output, by_class(LAYERS, node)(self.body, node, *arguments)
        self._flush(len(self.net.nodes))

    # ----------------------------------------------------------------------------------------------------- forward pass
    def _argument(self, name: str, index: int) -> str:
        """The expression of an input of a node: a variable, or what this node alone reads and fits into its line."""
        waiting, expression = self._waiting
        node = self.net.nodes[index]
        alone = name == waiting and self._readers[name] == 1 and len(node.inputs) == 1
        around = min(len(node.output), LONGEST) + len("self.()")
        if isinstance(node, Quantize):
            around = len(f"quantize(, least={node.least}, most={node.most})")
        elif isinstance(node, MaxPool) and not fits(node):
            around = len(f"F.pad(, {sides(node.padding)}, value=-torch.inf)")
        if alone and len(expression) + around <= NESTED and not isinstance(node, SEPARATE):
            return expression
        if waiting not in self._places:
            self._flush(index)
        return self._places[name]

    def _flush(self, index: int) -> None:
        """Write the line of the value that waits; `index` is that of the node which comes next."""
        name, expression = self._waiting
        following = self.net.nodes[index].inputs if index < len(self.net.nodes) else self.net.outputs
        soon = self._readers[name] == 1 and name in following
        variable = "x" if soon else self._locals.make("coded" if name == INPUT else name)
        self._places[name] = variable
        if not fits_line(f"{variable} = {expression}"):
            expression = self.body.step(expression)
        if expression != variable:
            self.body.step(expression, into=variable)

    def _coded(self) -> str:
        spec = self.net.input
        if spec.coding == "integer":
            return f"2 * x.{self._real}() - 255"
        if spec.mean is None or spec.std is None:
            return f"x.{self._real}()"
        ones = [1] * (len(spec.shape) - 1)
        mean = self.body.parameter("input_mean", spec.mean.reshape(-1, *ones), start="zeros")
        std = self.body.parameter("input_std", spec.std.reshape(-1, *ones))
        return f"(x.{self._real}() - {mean}) / {std}"

    # ------------------------------------------------------------------------------------------------------- whole text
    def text(self) -> str:
        """The program."""
        shape, classes = self.known[self.net.outputs[0]].shape, self.net.classes
        labels = isinstance(self.net.output, str) and len(shape) == 1 and shape[0] > 1 and self.net.compared == "labels"
        answer = "outputs" if not labels else "classes" if classes else "labels"
        what = "the outputs" if answer == "outputs" else "the class"
        title = plain(self.net.name) or "A net"
        head = [f'"""{title} in plain torch, written by onebit; its weights are beside it."""', "", *self._imports()]
        if classes:
            head += ["", listing("CLASSES = [", [quoted(name) for name in classes], "]", indent="")]
        blocks = [
            "\n".join(head),
            *(text for name, text in all_parts().items() if name in self.body.parts),
            self._net_text(),
            LOAD.format(reader=READERS[self.suffix]),
            MAIN.format(what=what, suffix=self.suffix, answer=ANSWERS[answer]),
        ]
        return "\n\n\n".join(blocks)

    def _imports(self) -> list[str]:
        code = "\n".join([*self.body.steps, *(all_parts()[name] for name in self.body.parts)])
        return [
            "import sys",
            "from pathlib import Path",
            "",
            "import numpy as np",
            *(["import safetensors.torch"] if self.suffix == ".safetensors" else []),
            "import torch",
            *(["import torch.nn.functional as F"] if "F." in code else []),
            "from torch import Tensor, nn",
        ]

    def _net_text(self) -> str:
        spec, output = self.net.input, self.net.output
        values = {
            name: self._places[name] + (".float()" if self._real == "double" else "") for name in self.net.outputs
        }
        shapes = {name: sized(self.known[name].shape) for name in self.net.outputs}
        if isinstance(output, str):
            kind, given, answer = "Tensor", shapes[output], f"{INDENT}return {values[output]}"
        elif isinstance(output, dict):
            kind, given = "dict[str, Tensor]", "outputs by name"
            items = [f"{quoted(key)}: {values[name]}" for key, name in output.items()]
            answer = listing("return {", items, "}", indent=INDENT)
        else:
            kind, given = "tuple[Tensor, ...]", f"{len(output)} outputs"
            comma = "," if len(output) == 1 else ""
            answer = listing("return (", [values[name] for name in output], f"{comma})", indent=INDENT)
        meaning = f", {told}," if (told := plain(spec.meaning)) else ""
        about = [f'    """{spec.dtype} {sized(spec.shape)}{meaning} -> {given}."""']
        if pixels := pixels_in_words(self.net):
            about = [about[0].removesuffix('"""'), "", f"    Inputs are {pixels}.", '    """']
        checks = [
            f"if x.dtype != torch.{spec.dtype}:",
            f'    raise TypeError(f"expected torch.{spec.dtype}, got {{x.dtype}}")',
            f"if x.shape[1:] != {spec.shape}:",
            f'    raise ValueError(f"expected {sized(spec.shape)}, got {{tuple(x.shape)}}")',
        ]
        double = [f"{INDENT}self.double()  # float32 does not have all integers of this net"]
        return "\n".join(
            [
                "class Net(nn.Module):",
                *about,
                "",
                "    def __init__(self) -> None:",
                f"{INDENT}super().__init__()",
                *self.body.layers,
                *(double if self._real == "double" else []),
                "",
                f"    def forward(self, x: Tensor) -> {kind}:",
                *(INDENT + line for line in checks),
                *self.body.steps,
                answer,
            ]
        )


def sized(shape: tuple[int, ...]) -> str:
    """The shape of a batch."""
    return f"({', '.join(map(str, ('N', *shape)))})" if shape else "(N,)"
