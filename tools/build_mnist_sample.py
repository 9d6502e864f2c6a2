"""Build the sample of MNIST that is shipped with onebit from the complete set; run from the repository root.

    python tools/build_mnist_sample.py FOLDER-WITH-MNIST [--out FOLDER]

The images are the same every time. The compressed bytes may differ between zlib versions, so `onebit.data.mnist_sample`
has the checksums of the unpacked content.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
from pathlib import Path

import numpy as np

import onebit

mnist_sample = onebit.data.mnist_sample

SEED = 0


def choose(split: onebit.data.Split, count: int, rng: np.random.Generator) -> onebit.data.Split:
    """count/10 images of each digit, drawn without replacement, in a random order."""
    chosen = [rng.choice(np.flatnonzero(split.labels == digit), count // 10, replace=False) for digit in range(10)]
    return split[rng.permutation(np.concatenate(chosen))]


def main() -> None:
    """Write both files and print the figures that `onebit.data.mnist_sample` and the license text quote."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the four official files are")
    parser.add_argument("--out", type=Path, default=Path("src/onebit/data"), help="where to write (%(default)s)")
    arguments = parser.parse_args()
    mnist = onebit.data.mnist.read_mnist(directory=arguments.folder)
    rng = np.random.default_rng(SEED)
    parts = [
        choose(mnist.train, mnist_sample.TRAIN_COUNT, rng),
        choose(mnist.test, mnist_sample.TEST_COUNT, rng),
    ]
    images = np.concatenate([part.images[:, 0] for part in parts])
    labels = np.concatenate([part.labels for part in parts]).astype(np.uint8)
    for name, array in ((mnist_sample.IMAGES_FILE, images), (mnist_sample.LABELS_FILE, labels)):
        content = onebit.data.mnist.idx_header(array.shape) + array.tobytes()
        packed = gzip.compress(content, 9, mtime=0)
        (arguments.out / name).write_bytes(packed)
        print(f"{name}: {len(packed)} bytes, sha256 unpacked {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    main()
