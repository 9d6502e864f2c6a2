"""Describes the bytes of an input for users of an exported net."""

from __future__ import annotations

from onebit.packed import InputSpec, PackedNet

IMAGE_DATA = {
    **dict.fromkeys(("cifar10", "cifar100", "folder", "imagenet", "membrane", "segmentation"), ""),
    **dict.fromkeys(("mnist", "mnist-sample"), ", white strokes on black"),
    "fashion-mnist": ", clothing on black",
}
"""Data sets of gray or RGB images -> what else is known of their pixels."""
UNKNOWN = "bytes 0 to 255 as in training"


def pixels_in_words(net: PackedNet, spec: InputSpec) -> str:
    """What the bytes of an input are, as far as the data are known; "" for float32."""
    if spec.dtype != "uint8":
        return ""
    name = net.card.dataset if net.card else None
    if name is None and net.certificate and net.certificate.split:  # without a split, the name is the user's
        name = net.certificate.dataset
    planes = {1: "gray", 3: "planes in the order red, green, blue"}.get(spec.shape[0])
    if name not in IMAGE_DATA or len(net.inputs) > 1 or planes is None or len(spec.shape) != 3:
        return UNKNOWN
    return f"bytes 0 to 255, {planes}{IMAGE_DATA[name]}, no normalization before"
