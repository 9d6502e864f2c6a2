"""`PackedModule`: a packed net inside a torch program, and the operator behind it, `torch.ops.onebit.run_packed`."""

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

_COMPARED = 1 << 16  # bytes of a file that every call compares: its graph, and real parameters, which precede the signs


def _run_packed(images: Tensor, net: Tensor, shape: list[int]) -> Tensor:
    """The operator: logits (N, *shape) float32 of images (N, C, H, W) uint8.

    Args:
        net: (B,) uint8, the bytes of a `.1bit` file, which are read when they are others than in the call before.
        shape: of the logits of an image, for tracing, where there are no bytes to ask.

    Raises:
        UsageError: tensors of another dtype, shape or device, or a net that makes logits of another shape.
        FormatError: bytes that are no sound file, or logits that are not finite.
        NotBinaryError: as `onebit.runtime.run`.
    """
    if not images.is_cpu:
        raise _elsewhere("images", images)
    read = _read(net)
    if read.shape != tuple(shape):
        raise UsageError(f"got a packed net with logits of shape {read.shape}, expected {tuple(shape)}")
    return torch.from_numpy(_run(read, images.numpy()))


def _run(read: _Read, images: np.ndarray) -> np.ndarray:
    """`run`, straight to the library where there are no threads to start and nothing is wrong.

    A batch is shared by ONEBIT_THREADS threads, or by as many as torch has.
    """
    net, plan, threads = read.net, read.plan, 1
    if images.ndim and len(images) > 1:
        threads = thread_count() if os.environ.get("ONEBIT_THREADS") else torch.get_num_threads()
        threads = threads if plan is None else threads_for(plan, len(images), threads)
    if threads == 1 and plan is not None and images.shape[1:] == net.input.shape and images.dtype == np.uint8:
        logits, nan = plan.run(np.ascontiguousarray(images))
        # less than half the time of isfinite; what it cannot tell, `run` can
        if not nan and np.vdot(logits, logits) < inf:
            return logits
    return run(net, images, threads=threads)


def _trace(images: Tensor, net: Tensor, shape: list[int]) -> Tensor:
    """A tensor such as `_run_packed` returns, of images whose contents are not known."""
    for name, tensor in (("images", images), ("a packed net", net)):
        if tensor.device.type not in ("cpu", "meta"):
            raise _elsewhere(name, tensor)
    if images.device != net.device:
        raise UsageError(f"got images on {images.device} and a packed net on {net.device}, expected both on the CPU")
    if images.dtype is not torch.uint8 or images.ndim == 0:
        raise UsageError(f"got images {_kind(images)}, expected uint8 (N, C, H, W)")
    return images.new_empty((images.shape[0], *shape), dtype=torch.float32)


# `torch.library.custom_op` defines the same operator, and takes 5 µs more a call
_LIBRARY = torch.library.Library("onebit", "DEF")
_LIBRARY.define("run_packed(Tensor images, Tensor net, int[] shape) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))
_LIBRARY.impl("run_packed", _run_packed, "CompositeExplicitAutograd")  # for every device, to say that it is the CPU's
torch.library.register_fake("onebit::run_packed", _trace, lib=_LIBRARY)
_call: Callable[..., Tensor] = torch.ops.onebit.run_packed.default


class PackedModule(nn.Module):
    """A packed net as a module: `forward` is `onebit.runtime.run`, bit for bit, as one operator of torch.

    It infers only: images are uint8, and logits have no gradient. All that its state_dict holds is `file`, (B,) uint8,
    the bytes of the `.1bit` file. Copies, pickles and exported programs carry these one-bit weights and nothing else;
    `load_state_dict` takes any net with images and logits of the same shape.

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
        self.logits_shape = infer(net)[net.output].shape

    @property
    def net(self) -> PackedNet:
        """What the bytes of `file` say now.

        Raises:
            UsageError: `file` was moved from the CPU, or given another dtype.
            FormatError: it is no sound `.1bit` file.
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
        found = costs(net)
        bits, real = sum(node.binary_weights for node in found), sum(node.real_parameters for node in found)
        name = f"{net.name!r}, " if net.name else ""
        return (
            f"{name}{_shapes(self.image_shape, self.logits_shape)}, {bits:,} one-bit weights, "
            f"{real:,} real parameters, {self.file.numel():,} bytes"
        )

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """Torch's own, which copies, once it is clear that the given net can stand for this one."""
        given = state_dict.get(f"{prefix}file")
        if isinstance(given, Tensor) and not given.is_meta:
            try:
                self._make_room(given.cpu())
            except OnebitError as error:
                errors = args[-1]
                errors.append(f"{prefix}file: {error}")
                return
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _make_room(self, given: Tensor) -> None:
        """For the bytes of another net.

        Raises:
            UsageError: its images or logits have another shape, or they are no bytes.
            FormatError: they are no sound `.1bit` file.
        """
        net = _net_in(_bytes_of(given).tobytes())
        asked, found = (self.image_shape, self.logits_shape), (net.input.shape, infer(net)[net.output].shape)
        if found != asked:
            raise UsageError(f"got the net {net.name!r}, {_shapes(*found)}, expected {_shapes(*asked)}")
        if given.shape != self.file.shape:  # names and a certificate make a file longer or shorter
            self.file = self.file.new_empty(given.shape)


class _Read(NamedTuple):
    """A net that was read from a tensor. It does not keep the tensor.

    Args:
        shape: of its logits.
        plan: of the library for it, by ONEBIT_NATIVE and ONEBIT_ISA as they were then.
        data: the bytes that it was read from.
        tensor: what they were read from, and storage: its memory, which takes this entry along when it goes.
        view: the first of these bytes where they are now; not to be read without the tensor.
        version: torch's count of the changes to the tensor; None where torch does not count all of them.
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
        """Whether it was read from this tensor, which has not changed in a way that can be told without its bytes."""
        return (
            self.version is not None
            and self.tensor() is file
            and self.version == file._version
            and len(self.data) == file.numel()
            and self.data.startswith(self.view)
        )


_READ: dict[int, _Read] = {}
"""By the address of the bytes, as long as their memory is there."""


def _read(file: Tensor) -> _Read:
    """The net in the bytes (B,) of a tensor, read only when they changed.

    All of them are compared with those of the last reading, unless it is the same tensor and torch counted no change.
    A change that torch does not count, by `.data` or a view of numpy, is then seen in the first bytes of the file.
    """
    address = file.data_ptr()
    known = _READ.get(address)
    if known is not None and known.is_unchanged(file):
        return known
    bytes_now = _bytes_of(file)
    counted = not (file.is_inference() or file.is_shared()) and file.is_contiguous()
    version = file._version if counted else None  # first: bytes may change meanwhile
    if known is not None and len(bytes_now) == len(known.data) and known.data.startswith(bytes_now):
        net, shape, plan, data, *_ = known
    else:
        data = bytes_now.tobytes()
        net = _net_in(data)
        shape, plan = infer(net)[net.output].shape, native_plan(net)
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
