"""Check that an installed wheel knows digits, with the same bits by all instruction sets. Needs only the wheel:

python tools/wheel_check.py
"""

from __future__ import annotations

import platform
import sys

import numpy as np

import onebit

EXPECTED = {
    ("Linux", "x86_64"): "avx2",
    ("Linux", "aarch64"): "neon",
    ("Windows", "AMD64"): "avx2",
    ("Darwin", "arm64"): "neon",
}
"""The instruction set that each platform of the CI must have."""
NETS = ("mnist-mlp", "resnet20-cifar10", "vgg-small-cifar10")
"""Convolutions and dense layers of binary and real inputs."""


def main() -> int:
    found = onebit.native.instruction_sets()
    system, machine = platform.system(), platform.machine()
    print(f"onebit {onebit.__version__}, {system} {machine}: {', '.join(found) or 'no native library'}")
    if missing := {"portable", EXPECTED.get((system, machine), "portable")} - found.keys():
        print(f"the wheel lacks {', '.join(sorted(missing))}", file=sys.stderr)
        return 1
    for net in map(onebit.load, NETS):
        images = np.random.default_rng(1).integers(0, 256, (5, *net.input.shape), dtype=np.uint8)
        expected = onebit.runtime.run(net, images, executor="reference")
        for name, isa in found.items():
            logits, _ = onebit.native.make_plan(net, isa).run(images)
            if not np.array_equal(logits, expected):
                print(f"{name} gives logits of {net.name} that differ from those of numpy", file=sys.stderr)
                return 1
    print(f"{len(found)} instruction sets give the bits of numpy")
    test = onebit.load_dataset("mnist-sample").test
    right = (onebit.run("mnist-mlp", test.images).argmax(axis=1) == test.labels).mean()
    print(f"{right:.2%} of the digits are right")
    if right < 0.95 or "torch" in sys.modules:
        print("expected 95 %, without torch", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
