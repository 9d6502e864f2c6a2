"""`make demo`: train on MNIST, verify, pack and classify, with the commands that a user would type."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image

import onebit

RUN = Path("runs/demo")
NET, DIGITS = RUN / "mnist.1bit", RUN / "digits"
# the sample has an eighth of the images: more passes give about as many steps
SAMPLE = "--dataset mnist-sample --validation 1000 --epochs 30"
OFFLINE = """
NOTE: MNIST is not on this machine and cannot be fetched (see above). The demo goes on with mnist-sample,
8,000 training and 2,000 test digits that ship with onebit: its accuracies are lower than those on MNIST."""
NEXT = f"""
try next:
  source .venv/bin/activate                   # makes `onebit` a command of this shell
  onebit predict {NET} {DIGITS} --top 3
  onebit inspect {NET}        # what is in the file, layer by layer
  onebit evaluate {RUN} --weights latent  # the real weights behind the signs, for comparison
  onebit train mnist-fast --seed 1 %s
  onebit list recipes                         # what else can be trained
and open {RUN}/report/index.html: curves, weights, settings

the net as a web page: open {RUN}/digits.html in a browser and draw a digit; it needs no server and no network"""


def run(command: str) -> int:
    """Show and run a command of onebit."""
    print(f"\n$ onebit {command}", flush=True)
    return subprocess.run([sys.executable, "-m", "onebit", *shlex.split(command)]).returncode


def draw_answers(test: onebit.data.Split, path: Path, *, data: str) -> None:
    """A picture of right and wrong answers of the packed net on the test images."""
    probabilities = onebit.runtime.softmax(onebit.run(onebit.load(NET), test.images))
    answers = {"predicted": probabilities.argmax(axis=1), "probabilities": probabilities.max(axis=1)}
    onebit.report.plot_answers(test.images, path, labels=test.labels, classes=tuple("0123456789"), data=data, **answers)
    print(path)


def main() -> None:
    data, more = "mnist", ""
    if run("data mnist"):
        data, more = "mnist-sample", SAMPLE
        print(OFFLINE, flush=True)
    shutil.rmtree(RUN, ignore_errors=True)
    DIGITS.mkdir(parents=True)
    test = onebit.load_dataset(data).test
    for i in range(10):
        Image.fromarray(test.images[i, 0]).save(DIGITS / f"{i}-is-{test.labels[i]}.png")
    for command in (
        f"train mnist-fast {more} --out {RUN}",
        f"verify {RUN}",
        f"pack {RUN} -o {NET}",
        f"predict {NET} {DIGITS}",
        f"bench {NET}",
        f"report {RUN} -o {RUN}/report",
        f"export {NET} --to html -o {RUN}/digits.html",
    ):
        if status := run(command):
            sys.exit(status)
    draw_answers(test, RUN / "predictions.png", data=f"{data} test")
    print(NEXT % more, flush=True)


if __name__ == "__main__":
    main()
