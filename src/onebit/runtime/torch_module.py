"""`PackedModule`: a packed net inside a torch program, and its operator `torch.ops.onebit.run_packed`."""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Callable
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from onebit.common.torch_private import is_watched
from onebit.errors import FormatError, OnebitError, UsageError
from onebit.native import NativePlan
from onebit.packed import InputSpec, PackedNet, costs, dumps, loads
from onebit.runtime import native_plan
from onebit.runtime.inputs import refusal, without_torch
from onebit.runtime.layer_operator import refuse_tangent
from onebit.runtime.running import opened, run_planned, thread_count

_COMPARED = 160  # bytes of a file that every call compares: its digest is among them


def _run_packed(images: Tensor, net: Tensor, shape: list[int]) -> Tensor:
    """The operator: logits, or another single output, (N, *shape) float32 of a batch (N, …) uint8 or float32.

    Args:
        net: (B,) uint8, the bytes of a `.1bit` file; parsed again only if they have changed since the last call.
        shape: of the output of one sample; needed for tracing, where the bytes are unknown.
    """
    return torch.from_numpy(_run_shaped(images, net, (tuple(shape),))[0])


def _run_packed_outputs(images: Tensor, net: Tensor, shapes: list[int], ranks: list[int]) -> list[Tensor]:
    """The operator for several outputs. shapes, ranks: of each, for one sample; the shapes one after the other."""
    # those of a native plan share memory, which tensors of an operator must not
    return [torch.from_numpy(array.copy()) for array in _run_shaped(images, net, _shapes_of(shapes, ranks))]


def _run_shaped(images: Tensor, net: Tensor, shapes: tuple[tuple[int, ...], ...]) -> list[np.ndarray]:
    """The outputs of a net, which have these shapes for one sample."""
    if (read := _read(net)).shapes != shapes:
        raise UsageError(f"got a packed net with outputs of shapes {read.shapes}, expected {shapes}")
    return _run(read, without_torch(images))


def _is_plain(x: Tensor) -> bool:
    """Whether `x` is on the CPU, and nothing follows the operations on it: no compiler, trace, transform or mode."""
    return type(x) is Tensor and x.is_cpu and not torch.compiler.is_compiling() and not is_watched()


def _run(read: _Read, batch: np.ndarray) -> list[np.ndarray]:
    """The outputs of `run`. ONEBIT_THREADS threads, or as many as torch uses, share a batch."""
    net, threads = read.net, 1
    if batch.shape[:1] != (1,):
        threads = thread_count() if os.environ.get("ONEBIT_THREADS") else torch.get_num_threads()
    made = run_planned(net, read.plan, batch, threads=threads)
    return [made] if isinstance(net.output, str) else list(net.by_name(made).values())


def _trace(images: Tensor, net: Tensor, shape: list[int]) -> Tensor:
    """The fake version of `_run_packed`: a tensor with the shape of the output."""
    return images.new_empty((images.shape[0], *shape), dtype=torch.float32)


def _trace_outputs(images: Tensor, net: Tensor, shapes: list[int], ranks: list[int]) -> list[Tensor]:
    sizes = _shapes_of(shapes, ranks)
    return [images.new_empty((images.shape[0], *shape), dtype=torch.float32) for shape in sizes]


def _shapes_of(sizes: list[int], ranks: list[int]) -> tuple[tuple[int, ...], ...]:
    ends = [0, *accumulate(ranks)]
    return tuple(tuple(sizes[start:stop]) for start, stop in pairwise(ends))


# `torch.library.custom_op` would define the same operators, but adds 5 µs per call
_LIBRARY = torch.library.Library("onebit", "DEF")
for _schema, _function, _traced in (
    ("run_packed(Tensor images, Tensor net, int[] shape) -> Tensor", _run_packed, _trace),
    (
        "run_packed_outputs(Tensor images, Tensor net, int[] shapes, int[] ranks) -> Tensor[]",
        _run_packed_outputs,
        _trace_outputs,
    ),
):
    _name = _schema.partition("(")[0]
    _LIBRARY.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(_name, _function, "CompositeExplicitAutograd")  # for every device, to raise a clear error
    torch.library.register_fake(f"onebit::{_name}", _traced, lib=_LIBRARY)
_call: Callable[..., Tensor] = torch.ops.onebit.run_packed.default
_call_outputs: Callable[..., list[Tensor]] = torch.ops.onebit.run_packed_outputs.default


class PackedModule(nn.Module):
    """A packed net as a module: `forward` is `onebit.runtime.run`, bit for bit, as one operator of torch.

    It is for inference only: outputs have no gradient. Its state_dict has a single entry, `file`: (B,) uint8, the bytes
    of the `.1bit` file. Copies, pickles and exported programs contain only these one-bit weights. `load_state_dict`
    accepts any net with the same shapes and dtype of inputs and outputs.

    Args:
        net: a packed net, the path of its file, or the name of a net that ships.

    Raises:
        FormatError: as `onebit.load`.

    Example:
        >>> module = PackedModule("mnist.1bit")
        >>> labels = torch.compile(module)(images).argmax(dim=1)
    """

    file: Tensor

    def __init__(self, net: PackedNet | str | os.PathLike[str]) -> None:
        super().__init__()
        net = opened(net)
        self.register_buffer("file", torch.frombuffer(bytearray(dumps(net)), dtype=torch.uint8))
        self.signature = Signature.of(net)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of one sample of the input."""
        return self.signature.spec.shape

    @property
    def logits_shape(self) -> tuple[int, ...]:
        """The shape of the output of one sample; UsageError if the net has several outputs."""
        if self.signature.order is not None:
            raise UsageError(f"the net has outputs {self.signature.outputs}, expected one: the logits")
        return self.signature.shapes[0]

    @property
    def net(self) -> PackedNet:
        """The net in the current bytes of `file`.

        Raises:
            UsageError: `file` is no longer on the CPU, or has another dtype.
            FormatError: not a valid `.1bit` file.
        """
        return _read(self.file).net

    def forward(self, images: Tensor) -> Any:
        """The outputs (N, …) float32 of a batch (N, …) of images or other inputs; gray images also (N, H, W).

        Returns:
            one tensor, such as logits; a tuple or dict, as the model returned it, for several outputs.

        Raises:
            UsageError, FormatError, NotBinaryError: as `onebit.runtime.run`, and for tensors that are not on the CPU or
                have a forward-mode tangent.
        """
        signature = self.signature
        if images.dtype is not signature.dtype:
            raise refusal(signature.spec, str(images.dtype).removeprefix("torch."), tuple(images.shape))
        refuse_tangent(images, "packed nets")
        if images.requires_grad:  # outputs that seem to have a gradient would train nothing before the net, in silence
            images = images.detach()
        made: Any
        file = self._buffers["file"]  # `self.file` takes a µs
        assert file is not None
        # torch would take 5 µs to call the operator
        if _is_plain(images) and file.is_cpu and (read := _read(file)).shapes == signature.shapes:
            made = [torch.from_numpy(array) for array in _run(read, images.numpy())]
        elif signature.order is None:
            made = [_call(images, file, signature.shapes[0])]
        else:
            made = _call_outputs(images, file, signature.sizes, signature.ranks)
        if signature.order is None:
            return made[0]
        if isinstance(signature.order, dict):
            return {key: made[index] for key, index in signature.order.items()}
        return tuple(made[index] for index in signature.order)

    def extra_repr(self) -> str:
        try:
            net = self.net
        except OnebitError as error:
            return str(error)
        rows = costs(net)
        bits, real = sum(node.binary_weights for node in rows), sum(node.real_parameters for node in rows)
        name = f"{net.name!r}, " if net.name else ""
        return (
            f"{name}{self.signature}, {bits:,} one-bit weights, {real:,} real parameters, {self.file.numel():,} bytes"
        )

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """Check that the given net can replace this one, then copy as torch does."""
        given = state_dict.get(f"{prefix}file")
        if isinstance(given, Tensor) and not given.is_meta:
            try:
                self._make_room(given.cpu())
            except OnebitError as error:
                args[-1].append(f"{prefix}file: {error}")
                return
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _make_room(self, given: Tensor) -> None:
        """Resize `file` for the bytes of another net; UsageError for other shapes of inputs or outputs."""
        net = _net_in(_bytes_of(given).tobytes())
        got = Signature.of(net)
        if not got.equals(self.signature):
            raise UsageError(f"got the net {net.name!r}, {got}, expected {self.signature}")
        if given.shape != self.file.shape:  # names and certificates differ in length
            self.file = self.file.new_empty(given.shape)


class Signature(NamedTuple):
    """What a packed net takes and gives.

    spec: of the input. shapes: of each value that is an output, for one sample; sizes, ranks: the same as lists.
    order: for several outputs, the index of each in `shapes`, as a tuple or by key; None for a single output.
    """

    spec: InputSpec
    dtype: torch.dtype
    shapes: tuple[tuple[int, ...], ...]
    sizes: list[int]
    ranks: list[int]
    order: tuple[int, ...] | dict[str, int] | None

    @classmethod
    def of(cls, net: PackedNet) -> Signature:
        names = net.outputs
        shapes = tuple(net.values[name].shape for name in names)
        order = None if isinstance(net.output, str) else net.structured({name: k for k, name in enumerate(names)})
        spec = InputSpec(shape=net.input.shape, dtype=net.input.dtype, coding="values")  # without its arrays
        dtype = torch.uint8 if spec.dtype == "uint8" else torch.float32
        return cls(spec, dtype, shapes, [size for shape in shapes for size in shape], [*map(len, shapes)], order)

    def equals(self, other: Signature) -> bool:
        key = (self.spec.shape, self.dtype, self.shapes, self.order)
        return key == (other.spec.shape, other.dtype, other.shapes, other.order)

    @property
    def outputs(self) -> str:
        """The shape of the output, or of each output."""
        sizes = ["×".join(map(str, shape)) or "1" for shape in self.shapes]
        if isinstance(self.order, dict):
            return "{" + ", ".join(f"{key}: {sizes[index]}" for key, index in self.order.items()) + "}"
        return sizes[0] if self.order is None else "(" + ", ".join(sizes[index] for index in self.order) + ")"

    def __str__(self) -> str:
        return f"{self.spec.dtype} {'×'.join(map(str, self.spec.shape))} -> {self.outputs}"


class _Read(NamedTuple):
    """A net that was read from a tensor, without keeping the tensor alive.

    Args:
        shapes: of each of its outputs, for one sample.
        plan: its native plan, for the values of ONEBIT_NATIVE and ONEBIT_ISA at that time.
        data: the bytes that it was read from.
        tensor, storage: the tensor and its memory; this entry is removed with the memory.
        view: the current first bytes in that memory; valid only while the tensor exists.
        version: torch's count of changes to the tensor; None if torch does not count all changes.
    """

    net: PackedNet
    shapes: tuple[tuple[int, ...], ...]
    plan: NativePlan | None
    data: bytes
    tensor: weakref.ref[Tensor]
    storage: weakref.ref[torch.UntypedStorage]
    view: Any
    version: int | None

    def is_unchanged(self, file: Tensor) -> bool:
        """Whether it was read from this tensor, and the tensor has not changed as far as a quick check can tell."""
        return (
            self.version is not None
            and self.tensor() is file
            and self.version == file._version
            and len(self.data) == file.numel()
            and self.data.startswith(self.view)
        )


_READ: dict[int, _Read] = {}
"""Nets by the address of their bytes, as long as that memory exists."""


def _read(file: Tensor) -> _Read:
    """The net in the bytes (B,) of a tensor, parsed again only if they have changed.

    All bytes are compared with those of the last time, unless it is the same tensor and torch counted no change. Then
    only the first bytes are compared, to detect changes through `.data` or a numpy view, which torch does not count.
    """
    address = file.data_ptr()
    known = _READ.get(address)
    if known is not None and known.is_unchanged(file):
        return known
    bytes_now = _bytes_of(file)
    counted = not (file.is_inference() or file.is_shared()) and file.is_contiguous()
    version = file._version if counted else None  # before the bytes are read, as they may change meanwhile
    if known is not None and len(bytes_now) == len(known.data) and known.data.startswith(bytes_now):
        net, shapes, plan, data, *_ = known
    else:
        data = bytes_now.tobytes()
        net = _net_in(data)
        shapes, plan = Signature.of(net).shapes, native_plan(net)
    view = (ctypes.c_uint8 * min(len(data), _COMPARED)).from_address(address)
    storage = weakref.ref(file.untyped_storage(), lambda _: _READ.pop(address, None))
    _READ[address] = read = _Read(net, shapes, plan, data, weakref.ref(file), storage, view, version)
    return read


def _bytes_of(file: Tensor) -> memoryview:
    if not file.is_cpu or file.dtype is not torch.uint8 or file.ndim != 1:
        got = f"{file.dtype} {tuple(file.shape)} on {file.device}"
        raise UsageError(f"got a packed net as {got}, expected the bytes of a .1bit file on the CPU, uint8 (B,)")
    return memoryview(file.contiguous().numpy())  # type: ignore[arg-type]


def _net_in(data: bytes) -> PackedNet:
    try:
        return loads(data)
    except FormatError as error:
        raise FormatError(f"the bytes of the packed net: {error}") from None
