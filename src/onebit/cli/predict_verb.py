"""`onebit predict`. Loads no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from onebit.cli.output import answer, answer_json, say
from onebit.cli.parsing import Parser, add_json
from onebit.errors import UsageError
from onebit.packed import PackedNet
from onebit.pictures import opened, picture
from onebit.runtime import load, run, softmax


def main(argv: list[str]) -> int:
    parser = Parser("predict", "Labels and probabilities of images with a packed net; needs no torch.")
    parser.add_argument("net", metavar="NET.1bit")
    parser.add_argument("images", metavar="IMAGE", nargs="+")
    parser.add_argument(
        "--invert", action="store_true", help="for dark strokes on white paper: MNIST is white on black"
    )
    add_json(parser)
    args = parser.parse(argv)
    net = load(args.net)
    images = np.stack([read_image(Path(file), net, invert=args.invert) for file in args.images])
    probabilities = softmax(run(net, images))
    labels = probabilities.argmax(axis=1)
    predictions = [
        {
            "file": file,
            "label": int(label),
            "name": net.classes[label] if net.classes else str(label),
            "probability": float(row[label]),
        }
        for file, label, row in zip(args.images, labels, probabilities, strict=True)
    ]
    if args.json:
        answer_json({"net": args.net, "predictions": predictions})
    else:
        for found in predictions:
            answer(f"{found['file']}: {found['name']} ({100 * found['probability']:.1f} %)")
    return 0


def read_image(path: Path, net: PackedNet, *, invert: bool = False) -> Any:
    """An image file as uint8 (C, H, W) in the shape the net takes: where it has another, its centre, resized.

    Raises:
        UsageError: not there, or a net whose channels no image has. DataError: not an image.
    """
    from PIL import Image, ImageOps

    channels, height, width = net.input.shape
    modes = {1: "L", 3: "RGB"}
    if channels not in modes:
        raise UsageError(f"the net takes {channels} channels; predict reads images with 1 or 3")
    if not path.is_file():  # a pipe would wait for ever
        raise UsageError(f"{str(path)!r}: no such image file")
    with opened(str(path)) as image:
        pixels = picture(image, modes[channels])
    if pixels.size != (width, height):
        say(f"{path}: resized from {pixels.width}×{pixels.height} to {width}×{height}")
        pixels = ImageOps.fit(pixels, (width, height), Image.Resampling.BILINEAR)
    array = np.asarray(pixels, dtype=np.uint8).reshape(height, width, channels).transpose(2, 0, 1)
    return 255 - array if invert else array
