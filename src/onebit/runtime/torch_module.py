"""`PackedModule`: a packed net inside a torch program, and its operator `torch.ops.onebit.run_packed`."""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Callable
from math import inf
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from onebit.common.arguments import described
from onebit.errors import FormatError, OnebitError, UsageError, WrongTypeError
from onebit.native import NativePlan
from onebit.packed import PackedNet, check_net, costs, dumps, infer, load, loads
from onebit.runtime import native_plan, run
from onebit.runtime.running import thread_count, threads_for

_COMPARED = 1 << 16  # bytes of a file that every call compares: the graph and real parameters, which precede the signs


def _run_packed(images: Tensor, net: Tensor, shape: list[int]) -> Tensor:
    """The operator: logits (N, *shape) float32 of images (N, C, H, W) uint8.

    Args:
        net: (B,) uint8, the bytes of a `.1bit` file; parsed again only if they have changed since the last call.
        shape: of the logits of an image; needed for tracing, where the bytes are unknown.

    Raises:
        UsageError: tensors of a wrong dtype, shape or device, or a net with logits of another shape.
        FormatError: bytes that are not a valid file, or logits that are not finite.
        NotBinaryError: as `onebit.runtime.run`.
    """
    if not images.is_cpu:
        raise _elsewhere("images", images)
    read = _read(net)
    if read.shape != tuple(shape):
        raise UsageError(f"got a packed net with logits of shape {read.shape}, expected {tuple(shape)}")
    return torch.from_numpy(_run(read, images.numpy()))


def _run(read: _Read, images: np.ndarray) -> np.ndarray:
    """`run`, with a direct call of the library if a single thread is enough and the images are valid.

    ONEBIT_THREADS threads, or as many as torch uses, share a batch.
    """
    net, plan, threads = read.net, read.plan, 1
    if images.ndim and len(images) > 1:
        threads = thread_count() if os.environ.get("ONEBIT_THREADS") else torch.get_num_threads()
        threads = threads if plan is None else threads_for(plan, len(images), threads)
    if threads == 1 and plan is not None and images.shape[1:] == net.input.shape and images.dtype == np.uint8:
        logits, nan = plan.run(np.ascontiguousarray(images))
        # takes less than half the time of isfinite; `run` decides the other cases
        if not nan and np.vdot(logits, logits) < inf:
            return logits
    return run(net, images, threads=threads)


def _trace(images: Tensor, net: Tensor, shape: list[int]) -> Tensor:
    """The fake version of `_run_packed`: a tensor with the shape of the logits."""
    for name, tensor in (("images", images), ("a packed net", net)):
        if tensor.device.type not in ("cpu", "meta"):
            raise _elsewhere(name, tensor)
    if images.device != net.device:
        raise UsageError(f"got images on {images.device} and a packed net on {net.device}, expected both on the CPU")
    if images.dtype is not torch.uint8 or images.ndim == 0:
        raise UsageError(f"got images {_kind(images)}, expected uint8 (N, C, H, W)")
    return images.new_empty((images.shape[0], *shape), dtype=torch.float32)


# `torch.library.custom_op` would define the same operator, but adds 5 µs per call
_LIBRARY = torch.library.Library("onebit", "DEF")
_LIBRARY.define("run_packed(Tensor images, Tensor net, int[] shape) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))
_LIBRARY.impl("run_packed", _run_packed, "CompositeExplicitAutograd")  # for every device, to raise a clear error
torch.library.register_fake("onebit::run_packed", _trace, lib=_LIBRARY)
_call: Callable[..., Tensor] = torch.ops.onebit.run_packed.default


class PackedModule(nn.Module):
    """A packed net as a module: `forward` is `onebit.runtime.run`, bit for bit, as one operator of torch.

    It is for inference only: images are uint8, and logits have no gradient. Its state_dict has a single entry, `file`:
    (B,) uint8, the bytes of the `.1bit` file. Copies, pickles and exported programs contain only these one-bit weights.
    `load_state_dict` accepts any net with the same shapes of images and logits.

    Args:
        net: a packed net, or the path of its file.

    Raises:
        WrongTypeError: neither. FormatError: as `onebit.load`.

    Example:
        >>> module = PackedModule("mnist.1bit")
        >>> labels = torch.compile(module)(images).argmax(dim=1)
    """

    file: Tensor

    def __init__(self, net: PackedNet | str | os.PathLike[str]) -> None:
        super().__init__()
        if isinstance(net, (str, os.PathLike)):
            net = load(net)
        check_net(net)
        self.register_buffer("file", torch.frombuffer(bytearray(dumps(net)), dtype=torch.uint8))
        self.image_shape = net.input.shape
        self.logits_shape = infer(net)[net.only_output].shape

    @property
    def net(self) -> PackedNet:
        """The net in the current bytes of `file`.

        Raises:
            UsageError: `file` is no longer on the CPU, or has another dtype.
            FormatError: not a valid `.1bit` file.
        """
        return _read(self.file).net

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, …) float32 of images (N, C, H, W) uint8, also (N, H, W) when C is 1.

        Raises:
            UsageError, FormatError, NotBinaryError: as `onebit.runtime.run`, and for tensors that are not on the CPU.
        """
        if isinstance(images, np.ndarray):
            raise WrongTypeError(
                f"images: got {described(images)} of numpy, expected a tensor: torch.from_numpy(images)"
            )
        return _call(images, self.file, self.logits_shape)

    def extra_repr(self) -> str:
        try:
            net = self.net
        except OnebitError as error:
            return str(error)
        rows = costs(net)
        bits, real = sum(node.binary_weights for node in rows), sum(node.real_parameters for node in rows)
        name = f"{net.name!r}, " if net.name else ""
        return (
            f"{name}{_shapes(self.image_shape, self.logits_shape)}, {bits:,} one-bit weights, "
            f"{real:,} real parameters, {self.file.numel():,} bytes"
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
        """Resize `file` for the bytes of another net; UsageError for other shapes of images or logits."""
        net = _net_in(_bytes_of(given).tobytes())
        expected, got = (self.image_shape, self.logits_shape), (net.input.shape, infer(net)[net.only_output].shape)
        if got != expected:
            raise UsageError(f"got the net {net.name!r}, {_shapes(*got)}, expected {_shapes(*expected)}")
        if given.shape != self.file.shape:  # names and certificates differ in length
            self.file = self.file.new_empty(given.shape)


class _Read(NamedTuple):
    """A net that was read from a tensor, without keeping the tensor alive.

    Args:
        shape: of its logits.
        plan: its native plan, for the values of ONEBIT_NATIVE and ONEBIT_ISA at that time.
        data: the bytes that it was read from.
        tensor, storage: the tensor and its memory; this entry is removed with the memory.
        view: the current first bytes in that memory; valid only while the tensor exists.
        version: torch's count of changes to the tensor; None if torch does not count all changes.
    """

    net: PackedNet
    shape: tuple[int, ...]
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
        net, shape, plan, data, *_ = known
    else:
        data = bytes_now.tobytes()
        net = _net_in(data)
        shape, plan = infer(net)[net.only_output].shape, native_plan(net)
    view = (ctypes.c_uint8 * min(len(data), _COMPARED)).from_address(address)
    storage = weakref.ref(file.untyped_storage(), lambda _: _READ.pop(address, None))
    _READ[address] = read = _Read(net, shape, plan, data, weakref.ref(file), storage, view, version)
    return read


def _bytes_of(file: Tensor) -> memoryview:
    if not file.is_cpu:
        raise _elsewhere("a packed net", file)
    if file.dtype is not torch.uint8 or file.ndim != 1:
        raise UsageError(f"got a packed net as {_kind(file)}, expected the bytes of a .1bit file, uint8 (B,)")
    return memoryview(file.contiguous().numpy())  # type: ignore[arg-type]


def _net_in(data: bytes) -> PackedNet:
    try:
        return loads(data)
    except FormatError as error:
        raise FormatError(f"the bytes of the packed net: {error}") from None


def _elsewhere(name: str, tensor: Tensor) -> UsageError:
    return UsageError(f"got {name} on {tensor.device}, expected the CPU, where packed nets run")


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _shapes(images: tuple[int, ...], logits: tuple[int, ...]) -> str:
    return f"uint8 {'×'.join(map(str, images))} -> {'×'.join(map(str, logits))}"
