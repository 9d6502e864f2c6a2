"""`PackedModule`: a packed net inside a torch program, and its operator `torch.ops.onebit.run_packed`."""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from onebit.common.torch_private import is_watched
from onebit.errors import OnebitError, UsageError
from onebit.modules.operators import define, is_plain, refuse_tangent, torch_threads
from onebit.native import NativePlan
from onebit.packed import PackedNet, dumps, loads
from onebit.runtime import native_plan
from onebit.runtime.input_batch import as_given, fitting
from onebit.runtime.running import opened, run_planned

_COMPARED = 160  # bytes of a file that every call compares; they include its digest
_Shapes = tuple[tuple[int, ...], ...]


def _outputs(inputs: Sequence[Tensor], file: Tensor, shapes: _Shapes) -> list[Tensor]:
    """The outputs of a net with these shapes of a sample; ONEBIT_THREADS or torch's threads share a batch."""
    net, found, plan = _read(file)[:3]
    if net.free and (sized := fitting(net, as_given(inputs))) is not net:
        net, found, plan = sized, Signature.of(sized).shapes, native_plan(sized)
    if found != shapes:
        raise UsageError(f"got a packed net with outputs of shapes {found}, expected {shapes}")
    batch, threads = as_given([x.numpy() for x in inputs]), 1
    if inputs[0].shape[:1] != (1,):
        threads = torch_threads()
    outputs = net.by_name(run_planned(net, plan, batch, threads=threads))
    return [torch.from_numpy(array) for array in outputs.values()]


def _run_packed_outputs(inputs: list[Tensor], net: Tensor, shapes: list[int], ranks: list[int]) -> list[Tensor]:
    """The operator: all outputs, float32 (N, …), of a batch (N, …) uint8 or float32 of each input.

    Args:
        net: (B,) uint8, the bytes of a `.1bit` file; parsed again only if they have changed since the last call.
        shapes, ranks: of each output of one sample, concatenated shapes; for tracing, where the bytes are unknown.
    """
    outputs = _outputs([x.detach() for x in inputs], net, _shapes_of(shapes, ranks))
    # outputs of a native plan share memory, which those of an operator must not
    return [output.clone() for output in outputs] if len(outputs) > 1 else outputs


def _trace_outputs(inputs: list[Tensor], net: Tensor, shapes: list[int], ranks: list[int]) -> list[Tensor]:
    """The fake version, for tracing."""
    sizes = _shapes_of(shapes, ranks)
    return [inputs[0].new_empty((inputs[0].shape[0], *shape), dtype=torch.float32) for shape in sizes]


def _shapes_of(sizes: list[int], ranks: list[int]) -> _Shapes:
    return tuple(tuple(sizes[start:stop]) for start, stop in pairwise(accumulate(ranks, initial=0)))


def _only(outputs: Callable[..., list[Tensor]]) -> Callable[..., Tensor]:
    """The same operator for a net with one input and one output of a `shape`."""
    return lambda images, net, shape: outputs([images], net, shape, [len(shape)])[0]


_call = define(
    "run_packed(Tensor images, Tensor net, int[] shape) -> Tensor", _only(_run_packed_outputs), _only(_trace_outputs)
)
_call_outputs = define(
    "run_packed_outputs(Tensor[] inputs, Tensor net, int[] shapes, int[] ranks) -> Tensor[]",
    _run_packed_outputs,
    _trace_outputs,
)


class PackedModule(nn.Module):
    """A packed net as a module: `forward` is `onebit.runtime.run`, bit for bit, as one operator of torch.

    For inference only: outputs have no gradient. The state_dict has a single entry, `file`: (B,) uint8, the bytes of
    the `.1bit` file. Copies, pickles and exported programs contain only these. `load_state_dict` accepts any net with
    the same shapes and dtype of inputs and outputs. A net packed with sizes="any" takes images of any size; where torch
    traces the module, as `torch.compile` does, of its own size only.

    Args:
        net: a packed net, the path of its file, or the name of a net that comes with onebit.

    Raises:
        FormatError: as `onebit.load`.

    Example:
        >>> module = PackedModule("mnist.1bit")
        >>> labels = torch.compile(module)(images).argmax(dim=1)
    """

    holds_bits = True
    file: Tensor

    def __init__(self, net: PackedNet | str | os.PathLike[str]) -> None:
        super().__init__()
        net = opened(net)
        self.register_buffer("file", torch.frombuffer(bytearray(dumps(net)), dtype=torch.uint8))
        self.signature = Signature.of(net)

    @property
    def net(self) -> PackedNet:
        """The net in the bytes of `file`.

        Raises:
            UsageError: `file` is not on the CPU, or has another dtype.
            FormatError: not a valid `.1bit` file.
        """
        return _read(self.file).net

    def forward(self, images: Tensor | None = None, *more: Tensor, **named: Tensor) -> Any:
        """The outputs (N, …) float32 of a batch (N, …) of images or other inputs; gray images also (N, H, W).

        Several inputs are arguments, in their order or by name.

        Returns:
            one tensor, such as logits; a tuple or dict for a net with several outputs.

        Raises:
            UsageError, FormatError, NotBinaryError: as `onebit.runtime.run`, and for tensors that are not on the CPU or
                have a forward-mode tangent.
        """
        names, shapes, order, free = self.signature
        if images is not None and len(names) == 1 and not (more or named):
            inputs = [images]
        else:
            given = [x for x in (images, *more) if x is not None]
            left = [*names][len(given) :]
            if len(given) > len(names) or named.keys() != {*left}:
                raise UsageError(f"expected the inputs {', '.join(names)}")
            inputs = [*given, *(named[name] for name in left)]
        file = self._buffers["file"]  # `self.file` takes a µs
        assert file is not None
        plain = file.is_cpu
        for index, x in enumerate(inputs):
            refuse_tangent(x, "packed nets")
            if x.requires_grad:  # the outputs must not seem to have a gradient
                inputs[index] = x = x.detach()
            plain = plain and is_plain(x)
        if free and plain:
            shapes = Signature.of(fitting(_read(file).net, as_given(inputs))).shapes
        if plain and not is_watched():
            outputs = _outputs(inputs, file, shapes)  # torch would take 5 µs to call the operator
        elif isinstance(order, int) and len(inputs) == 1:
            outputs = [_call(inputs[0], file, shapes[0])]
        else:
            outputs = _call_outputs(inputs, file, [size for shape in shapes for size in shape], [*map(len, shapes)])
        if isinstance(order, dict):
            return {key: outputs[index] for key, index in order.items()}
        return outputs[order] if isinstance(order, int) else tuple(outputs[index] for index in order)

    def extra_repr(self) -> str:
        taken = ", ".join(f"{dtype} {shape}" for dtype, shape in self.signature.inputs.values())
        return f"{taken} -> {self.signature.shapes}, {self.file.numel():,} bytes"

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """Check that the net can replace this one, then copy as torch does."""
        given = state_dict.get(f"{prefix}file")
        if isinstance(given, Tensor) and not given.is_meta:
            try:
                got = Signature.of(loads(_bytes_of(given.cpu()).tobytes()))
                if got != self.signature:
                    raise UsageError(f"got a net of {got}, expected {self.signature}")
            except OnebitError as error:
                args[-1].append(f"{prefix}file: {error}")
                return
            if given.shape != self.file.shape:  # names and certificates differ in length
                self.file = self.file.new_empty(given.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)


class Signature(NamedTuple):
    """The inputs and outputs of a packed net.

    inputs: dtype and shape of a sample of each input, by name. shapes: of each value that is an output, for one sample.
    order: the index of the output in `shapes`; for several outputs a tuple of indices, or a dict by key. free: whether
    it takes images of other sizes, too.
    """

    inputs: dict[str, tuple[str, tuple[int, ...]]]
    shapes: _Shapes
    order: int | tuple[int, ...] | dict[str, int]
    free: bool

    @classmethod
    def of(cls, net: PackedNet) -> Signature:
        shapes = tuple(net.values[name].shape for name in net.outputs)
        order = net.structured({name: index for index, name in enumerate(net.outputs)})
        return cls({name: (spec.dtype, spec.shape) for name, spec in net.inputs.items()}, shapes, order, net.free)


class _Read(NamedTuple):
    """A net that was read from a tensor, without keeping the tensor alive.

    Args:
        shapes: of each output, for one sample.
        plan: its native plan, for the values of ONEBIT_NATIVE and ONEBIT_ISA at that time.
        data: the bytes that it was read from.
        tensor: the tensor; None if torch does not count all its changes. version: its count at that time.
        storage: the memory of the tensor; this entry is removed with it.
        view: the first bytes in that memory; valid only while the tensor exists.
    """

    net: PackedNet
    shapes: _Shapes
    plan: NativePlan | None
    data: bytes
    tensor: Callable[[], Tensor | None]
    storage: weakref.ref[torch.UntypedStorage]
    view: Any
    version: int


_READ: dict[int, _Read] = {}
"""Nets by the address of their bytes, as long as that memory exists."""


def _read(file: Tensor) -> _Read:
    """The net in the bytes (B,) of a tensor, parsed again only if they have changed.

    All bytes are compared, unless it is the same tensor and torch counted no change: then only the first bytes are, to
    detect changes through `.data` or a numpy view, which torch does not count.
    """
    address = file.data_ptr()
    known = _READ.get(address)
    if known is not None and len(known.data) != file.numel():
        known = None
    if known and known.tensor() is file and known.version == file._version and known.data.startswith(known.view):
        return known
    bytes_now = _bytes_of(file)
    has_version = not (file.is_inference() or file.is_shared()) and file.is_contiguous()
    version = file._version if has_version else 0  # read before the bytes, which may change meanwhile
    tensor = weakref.ref(file) if has_version else lambda: None
    if known is not None and known.data.startswith(bytes_now):
        net, shapes, plan, data, *_ = known
    else:
        data = bytes_now.tobytes()
        net = loads(data)
        shapes, plan = Signature.of(net).shapes, native_plan(net)
    view = (ctypes.c_uint8 * min(len(data), _COMPARED)).from_address(address)
    storage = weakref.ref(file.untyped_storage(), lambda _: _READ.pop(address, None))
    _READ[address] = read = _Read(net, shapes, plan, data, tensor, storage, view, version)
    return read


def _bytes_of(file: Tensor) -> memoryview:
    if not file.is_cpu or file.dtype is not torch.uint8 or file.ndim != 1:
        got = f"{file.dtype} {tuple(file.shape)} on {file.device}"
        raise UsageError(f"got a packed net as {got}, expected the bytes of a .1bit file on the CPU, uint8 (B,)")
    return memoryview(file.contiguous().numpy())  # type: ignore[arg-type]
