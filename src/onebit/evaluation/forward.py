"""Forward passes of a model over batches: its outputs, its device, its precision, and the modes of its modules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from onebit.common.torch_private import COMPILED, uncompiled
from onebit.data import Images, Split, StreamedImages, fitted
from onebit.errors import UsageError
from onebit.evaluation.loaders import kept_globals
from onebit.evaluation.losses import token_costs
from onebit.evaluation.sources import ArraySamples, Samples, refuse_shifted
from onebit.evaluation.trees import called, first_samples, floats, joined, size_of, to_device
from onebit.layers import InputCoding
from onebit.layers.base import kept_training, model_device

OnImages = Callable[[int, int], None]
"""Called with (images done, all images)."""


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """The context in which a forward pass of the resolved precision runs.

    torch's cache of cast parameters is off: within another autocast it is not emptied at the end, and the next step
    would multiply with the real weights of this one.
    """
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16", cache_enabled=False)


@contextmanager
def kept_buffers(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Restore the buffers of these modules at the end of the context."""
    kept = [(module._buffers, *named) for module in modules for named in module.named_buffers(recurse=False)]
    values = [buffer.clone() for _, _, buffer in kept]
    try:
        yield
    finally:
        for (owner, name, buffer), value in zip(kept, values, strict=True):
            if not torch.equal(buffer, value):  # a write would break a later backward pass
                buffer.detach().copy_(value)
            owner[name] = buffer  # forward may have assigned another tensor


def generators_of(model: nn.Module) -> dict[str, torch.Generator]:
    """The generators of quantizers, by module name."""
    modules = model.named_modules()
    return {name: it for name, m in modules if isinstance(it := getattr(m, "generator", None), torch.Generator)}


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Restore buffers, random states and modes at the end of the context."""
    states = [(generator, generator.get_state()) for generator in {*generators_of(model).values()}]
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    with torch.random.fork_rng(devices), kept_globals(), kept_training(model), kept_buffers(model.modules()):
        try:
            yield
        finally:
            for generator, state in states:
                generator.set_state(state)


@contextmanager
def whole_pixels(model: nn.Module) -> Iterator[None]:
    """Refuse numbers up to 1 as inputs of an `InputCoding`, to which they are nearly black pixels."""

    def check(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        x = arguments[0]
        if x.is_floating_point() and x.numel() and 0 < (largest := float(x.max())) <= 1:
            raise UsageError(f"InputCoding: got numbers up to {largest:.3g}, expected pixels 0–255")

    with ExitStack() as hooks:
        for module in model.modules():
            if isinstance(module, InputCoding):
                hooks.enter_context(module.register_forward_pre_hook(check))
        yield


@torch.no_grad()
def try_model(model: nn.Module, inputs: Any) -> Any:
    """The outputs of the model for two samples in eval mode; it does not change."""
    plain, device = uncompiled(model), model_device(model)  # two samples need no compilation
    with unchanged(plain), whole_pixels(plain):
        return called(plain.eval(), to_device(first_samples(inputs, 2), device))


def in_tiles(model: nn.Module, data: Any) -> Any:
    """Cut a split of images with masks into tiles for the model, see `onebit.data.fitted`; other data are unchanged."""
    if not isinstance(data, Split) or data.labels.ndim == 1:
        return data
    taken, made = (getattr(model, name, None) for name in ("input_shape", "output_shape"))
    return data if taken is None or made is None else fitted(data, taken, made)


def predict_logits(
    model: nn.Module,
    images: Images | StreamedImages | Tensor,
    *,
    batch_size: int | None = None,
    on_images: OnImages | None = None,
) -> Tensor:
    """Logits (N, classes) in float32 and eval mode, of images (N, C, H, W) uint8; see `outputs_of`."""
    return outputs_of(model, ArraySamples(images), batch_size=batch_size, on_images=on_images)[0]


@torch.no_grad()
def outputs_of(
    model: nn.Module,
    samples: Samples,
    *,
    batch_size: int | None = None,
    on_images: OnImages | None = None,
    task: str | None = None,
) -> tuple[Any, Any]:
    """Outputs in float32 of a model in eval mode, and the targets or None.

    Args:
        batch_size: `fitting_batch` by default; a loader has its own.
        on_images: called with (samples done, samples).
        task: with "language" and targets, returns the costs of the tokens, and the tokens: all logits would be large.
    """
    device, parts, known = model_device(model), [], []
    done, count = 0, samples.count
    with kept_training(model):
        model.eval()
        for inputs, targets in samples.batches(batch_size):
            refuse_shifted(inputs, targets, task)
            # only for the first batch; the hook would recompile a compiled model
            with nullcontext() if done or hasattr(model, COMPILED) else whole_pixels(model):
                outputs = floats(called(model, to_device(inputs, device)), task)
            targets = to_device(targets, device)
            if task == "language" and targets is not None:
                outputs, targets = token_costs(outputs, targets)
            parts.append(outputs)
            known.append(targets)
            done += size_of(inputs)
            if on_images is not None:
                on_images(done, count or done)
    if not parts:
        raise UsageError("there are no samples")
    return joined(parts), None if known[0] is None else joined(known)
