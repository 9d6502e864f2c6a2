"""A net of digits for the web page, and a hostile name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onebit.data import load_dataset
from onebit.packed import Affine, Flatten, PackedNet, RealDense
from support.packed_nets import Builder

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


def digits_net() -> PackedNet:
    """A net of digits that answers well: the class whose mean picture is most like the image."""
    train = load_dataset("mnist-sample").train
    images = train.images.reshape(len(train), -1).astype(np.float32)
    means = np.stack([images[train.labels == label].mean(axis=0) for label in range(10)])
    b = Builder((1, 28, 28))
    b.add(Flatten)
    weight = means - means.mean(axis=0)
    weight /= np.linalg.norm(weight, axis=1, keepdims=True) * 500
    b.add(RealDense, weight=weight.astype(np.float32))
    b.add(Affine, shift=np.zeros(10, np.float32))
    return replace(b.net(), classes=tuple("0123456789"), name="mean digits")
