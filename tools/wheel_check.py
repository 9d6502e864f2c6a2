"""Check that all instruction sets of an installed wheel give the same bits. Needs only the wheel, without torch:

python tools/wheel_check.py
"""

from __future__ import annotations

import platform
import sys

import numpy as np

import onebit

packed = onebit.packed

EXPECTED = {
    ("Linux", "x86_64"): "avx2",
    ("Linux", "aarch64"): "neon",
    ("Windows", "AMD64"): "avx2",
    ("Darwin", "arm64"): "neon",
}
"""The instruction set that each platform of the CI must have."""


def random_net() -> packed.PackedNet:
    """A net with binary and real inputs of convolutions and dense layers."""
    rng = np.random.default_rng(0)

    def signs(outputs: int, inputs: int) -> dict[str, object]:
        return {"signs": packed.bits.pack_signs(rng.choice([-1, 1], (outputs, inputs))), "in_features": inputs}

    def real(size: int) -> np.ndarray:
        return rng.standard_normal(size).astype(np.float32)

    window = {"kernel": (3, 3), "padding": (1, 1, 1, 1)}
    at, up = rng.integers(-500, 500, 40).astype(np.int32), rng.choice(np.array([-1, 1], np.int8), 40)
    nodes = (
        packed.Conv(inputs=("input",), output="conv0", **signs(40, 27), **window),  # type: ignore[arg-type]
        packed.Threshold(inputs=("conv0",), output="signs0", threshold=at, direction=up),
        packed.Conv(inputs=("signs0",), output="conv1", **signs(20, 360), **window),  # type: ignore[arg-type]
        packed.Affine(inputs=("conv1",), output="norm1", scale=real(20), shift=real(20)),
        packed.Relu(inputs=("norm1",), output="relu1"),
        packed.Flatten(inputs=("relu1",), output="flat"),
        packed.Dense(inputs=("flat",), output="dense2", **signs(10, 20 * 64)),  # type: ignore[arg-type]
    )
    return packed.PackedNet(
        inputs={"input": packed.InputSpec(shape=(3, 8, 8))}, nodes=nodes, output="dense2", name="random"
    )


def main() -> int:
    found = onebit.native.instruction_sets()
    system, machine = platform.system(), platform.machine()
    print(f"onebit {onebit.__version__}, {system} {machine}: {', '.join(found) or 'no native library'}")
    if missing := {"portable", EXPECTED.get((system, machine), "portable")} - found.keys():
        print(f"the wheel lacks {', '.join(sorted(missing))}", file=sys.stderr)
        return 1
    net = packed.loads(packed.dumps(random_net()))
    images = np.random.default_rng(1).integers(0, 256, (5, 3, 8, 8), dtype=np.uint8)
    expected = onebit.runtime.run(net, images, executor="reference")
    for name, isa in found.items():
        logits, _ = onebit.native.make_plan(net, isa).run(images)
        if not np.array_equal(logits, expected):
            print(f"{name} gives logits that differ from those of numpy", file=sys.stderr)
            return 1
    print(f"{len(found)} instruction sets give the bits of numpy, labels {expected.argmax(axis=1).tolist()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
