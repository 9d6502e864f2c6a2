"""`onebit.pack`: the packed net of a model, compared with the model where data are given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from onebit.errors import UsageError
from onebit.fold import pack as fold
from onebit.packed import PackedNet
from onebit.verification.agreement import certify
from onebit.verification.samples import Trained


def pack(
    model: nn.Module,
    example: Any = None,
    *,
    input_shape: tuple[int, int, int] | None = None,
    preprocess: nn.Module | None = None,
    data: Any = None,
    trained: Trained | None = None,
    labels: Any = None,
    weights: str = "binary",
    seed: int = 0,
    classes: Sequence[str] | None = None,
    name: str = "",
    on_images: Callable[[int, int], None] | None = None,
) -> PackedNet:
    """The packed net that computes what `model` computes in eval mode with its binary weights.

    With `data` it is compared with the model, as `onebit.verify` does, and carries the certificate; without, nothing is
    compared, and `packed.statement` says so.

    Args:
        model: any torch model in float32. It is not changed.
        example: a batch as the model is fed, (N, …), float32 or uint8; it gives shape and dtype of the input.
        input_shape: (C, H, W) of uint8 images, in place of an example; optional if the model has this attribute.
        preprocess: a module that you applied outside of the model, such as `onebit.Normalize(mean, std)`; the packed
            net then takes what it takes: uint8 pixels.
        data: what the packed net is fed: inputs, (inputs, targets), a torch data set, a DataLoader, a `Split` or a
            `Dataset`.
        trained: how the model as trained sees the same samples, in the same order: a loader of preprocessed inputs, a
            function from raw inputs to outputs, or all outputs.
        labels: targets, where the data have none.
        weights: "binary" for the result of `decompose`, "sample" for one random draw.
        seed: of the draw; `onebit.evaluate` on the CPU makes the same draw from it.
        classes: one name per logit.
        name: name of the recipe or model, for display.
        on_images: called with (samples done, all samples) during the comparison.

    Raises:
        WrongTypeError: not a model.
        UsageError: no example or one of another dtype, an unknown test mode, a quantizer that defines no random draw,
            or another number of samples in `trained`.
        NotBinaryError: no binary layer, or parameters that are not finite; names the layer.
        FoldError: an operation that cannot be packed; or the packed net does not agree with the model on the data.
        FormatError: a name that is too long, or another number of `classes` than of logits.
        DataError: a loader in `trained` gives more or fewer samples than `data`.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), onebit.BinaryLinear(4, 2))
        >>> packed = pack(model, torch.rand(8, 1, 2, 2), data=torch.rand(8, 1, 2, 2))
        >>> packed.certificate.count, pack(model, torch.rand(8, 1, 2, 2)).statement
        (8, 'not certified: nothing was compared with the trained net')
    """
    if data is None and (trained is not None or labels is not None):
        raise UsageError(
            "got trained or labels without data, expected data as well: the raw inputs that the packed net is fed"
        )
    packed = fold(
        model,
        example,
        input_shape=input_shape,
        preprocess=preprocess,
        weights=weights,
        seed=seed,
        classes=classes,
        name=name,
    )
    if data is None:
        return packed
    return certify(
        model,
        packed,
        data,
        labels=labels,
        trained=trained,
        preprocess=preprocess,
        weights=weights,
        seed=seed,
        on_images=on_images,
    )
