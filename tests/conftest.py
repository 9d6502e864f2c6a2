"""Fixtures that several folders of tests share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import pytest
from rank_agents import Agents, warm_agents

from onebit.packed import (
    Affine,
    Certificate,
    Dense,
    Flatten,
    InputSpec,
    LayerProof,
    Node,
    PackedNet,
    RealDense,
    Relu,
    Sign,
    Threshold,
)
from onebit.packed.bits import pack_signs

# before anything imports torch: the nets of the tests are tiny, and results do not depend on the number of cores
os.environ.setdefault("OMP_NUM_THREADS", "1")

CERTIFICATE = Certificate(
    onebit="0.1.0",
    dataset="mnist",
    split="test",
    count=10_000,
    weights="binary",
    correct=9_876,
    label_mismatches=0,
    max_logit_difference=1.5e-5,
    bit_exact=False,
    source="0123456789abcdef" * 4,
    recipe="mnist-fast",
    layers=(LayerProof(name="fc0", proof="every integer", integers=399_841, mismatches=0),),
)


def make_packed_mlp(
    widths: tuple[int, ...] = (12, 70, 65, 10),
    *,
    form: str = "weight-only",
    shape: tuple[int, int, int] | None = None,
    seed: int = 0,
    certificate: Certificate | None = None,
) -> PackedNet:
    """A packed MLP with random contents.

    `form`: "weight-only" (affine and ReLU between the layers), "sign" (thresholds), or "mixed" (standardized input,
    scales, centers, a sign of real values and a real last layer).
    """
    rng = np.random.default_rng(seed)
    nodes: list[Node] = [Flatten(inputs=("input",), output="flat")]

    def real(*size: int, scale: float = 1.0) -> np.ndarray:
        return (rng.standard_normal(size) * scale).astype(np.float32)

    def add(kind: type[Node], output: str, **fields: object) -> None:
        nodes.append(kind(inputs=(nodes[-1].output,), output=output, **fields))

    for layer, (inputs, outputs) in enumerate(pairwise(widths)):
        last = layer == len(widths) - 2
        signs = pack_signs(rng.choice([-1, 1], (outputs, inputs)))
        if form == "mixed" and last:
            add(RealDense, f"fc{layer}", weight=real(outputs, inputs))
            add(Affine, f"bias{layer}", shift=real(outputs))
        elif form == "mixed":
            moments = {"scale": np.abs(real(outputs)) + 0.1, "centre": real(outputs, scale=0.1)}
            add(Dense, f"fc{layer}", signs=signs, in_features=inputs, **moments)
            add(Sign, f"sign{layer}")
        else:
            add(Dense, f"fc{layer}", signs=signs, in_features=inputs)
            if form == "sign" and not last:
                direction = rng.choice(np.array([-1, 1], np.int8), outputs)
                threshold = rng.integers(-50, 50, outputs).astype(np.int32)
                add(Threshold, f"threshold{layer}", threshold=threshold, direction=direction)
                continue
            add(Affine, f"affine{layer}", scale=real(outputs, scale=1 / inputs), shift=real(outputs))
            if not last:
                add(Relu, f"relu{layer}")
    shape = shape or (1, 1, widths[0])
    channels = shape[0]
    spec = InputSpec(shape=shape)
    if form == "mixed":
        mean, std = real(channels, scale=20) + np.float32(128), np.full(channels, 64, np.float32)
        spec = InputSpec(shape=shape, coding="standardise", mean=mean, std=std)
    return PackedNet(
        input=spec,
        nodes=tuple(nodes),
        output=nodes[-1].output,
        classes=tuple(str(label) for label in range(widths[-1])),
        certificate=certificate,
        name=f"random {form}",
    )


@pytest.fixture
def packed_mlp() -> Callable[..., PackedNet]:
    """`make_packed_mlp`: packed nets of several forms with random contents."""
    return make_packed_mlp


@pytest.fixture
def certificate() -> Certificate:
    """A certificate with every field set but the seed."""
    return CERTIFICATE


@pytest.fixture(scope="session")
def agents(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agents]:
    """Starts training runs of several processes; the first use waits for their imports."""
    with warm_agents(tmp_path_factory.mktemp("agents")) as warm:
        yield warm
