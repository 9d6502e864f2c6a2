"""Train the recipes that need a GPU while one is available: python -m tools.gpu_day --minutes N [--home DIR]

The most important come first, several at once. What is unfinished after the minutes goes on the next time, from the
checkpoint in its run folder. The run folders, with logs, results and packed nets, are in DIR.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch

LONG = "--epochs 300 --precision bf16 --compile"  # replays CUDA graphs
FULL = "--batch_size 100 --compile"  # batches of 50 images leave most of a GPU idle
TRAININGS = (
    "cifar10-resnet20-adabin --compile",
    f"cifar10-binaryconnect {FULL}",
    "cifar10-vgg-bnn --batch_size 125 --compile",
    f"cifar10-resnet20-binaryconnect {LONG}",
    f"cifar10-resnet20-real {LONG}",
    f"cifar10-bayesbinn {FULL}",
    f"cifar10-ste {FULL}",
    "cifar10-resnet20-adabin --compile --seed 1",
    "cifar10-resnet20-adabin --compile --seed 2",
    f"cifar10-binaryconnect --seed 1 {FULL}",
    f"cifar10-vgg-bnn --seed 1 {FULL}",
)
"""The most important first."""


def train(training: str, home: Path, end: float) -> bool:
    """Train until the end of the time (of `time.monotonic`), pack a finished net, and say whether nothing failed."""
    run = home / training.replace(" --", ",").replace(" ", "=")
    if (run / "result.json").exists() or time.monotonic() > end:
        return True
    run.mkdir(parents=True, exist_ok=True)
    words = ["train", *training.split(), "--threads", "1", "--out", str(run), "--resume"]
    pack = ["pack", str(run), "-o", str(run / "net.1bit"), "--images", "1000"]  # a tenth of the test images
    with (run / "output.log").open("ab") as log:
        call, onebit = partial(subprocess.run, stdout=log, stderr=log), [sys.executable, "-m", "onebit"]
        try:
            status = call([*onebit, *words], timeout=max(0.1, end - time.monotonic())).returncode
        except subprocess.TimeoutExpired:
            print(f"{training}: goes on next time", flush=True)
            return True
        if status == 0:
            call([*onebit, *pack])
    print(f"{training}: {'failed' if status else 'finished'}, see {log.name}", flush=True)
    return status == 0


def main() -> int:
    """Exit status: 1 where a training failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--home", type=Path, default=Path("runs/gpu"))
    args = parser.parse_args()
    end = time.monotonic() + 60 * args.minutes
    with ThreadPoolExecutor(4 if torch.cuda.is_available() else 1) as pool:
        return int(not all([*pool.map(lambda training: train(training, args.home, end), TRAININGS)]))


if __name__ == "__main__":
    sys.exit(main())
