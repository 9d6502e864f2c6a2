"""`make demo`: train on MNIST, verify, pack and classify, with the commands that a user would type."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image

import onebit

FOLDER = Path("runs/demo")
NET = FOLDER / "mnist.1bit"
DIGITS = FOLDER / "digits"
PAGE = FOLDER / "digits.html"
DIGIT_COUNT = 30

WITHOUT_TORCH = """
import sys
from onebit.__main__ import main
status = main(sys.argv[1:])
assert "torch" not in sys.modules, "predict has loaded torch"
sys.exit(status)
"""


def try_next(digit: str, data: list[str]) -> str:
    """The last lines of the demo: commands that work as typed; `data`: flags of the data set that was trained on."""
    commands = {
        "source .venv/bin/activate": "makes `onebit` a command of this shell",
        f"onebit predict {NET} {digit}": "",
        f"onebit inspect {NET}": "what is in the file, layer by layer",
        f"onebit evaluate {FOLDER} --weights latent": "the real weights behind the signs, for comparison",
        " ".join(["onebit train mnist-fast --seed 1", *data]): "the same with other random numbers",
        "onebit list recipes": "what else can be trained",
    }
    lines = [f"  {command:<45}{f' # {what}' if what else ''}".rstrip() for command, what in commands.items()]
    report = f"and open {FOLDER / 'report' / 'index.html'}: curves, weights, settings"
    page = f"the net as a web page: open {PAGE} in a browser and draw a digit; it needs no server and no network"
    return "\n".join(["", "try next:", *lines, report, "", page])


def run_onebit(*arguments: str, quiet: bool = False) -> subprocess.CompletedProcess[str]:
    """Show and run one onebit command; stop the demo when it fails."""
    print(f"\n$ onebit {' '.join(arguments)}", flush=True)
    done = subprocess.run([sys.executable, "-m", "onebit", *arguments], text=True, stdout=subprocess.PIPE)
    if not quiet:
        print(done.stdout, end="", flush=True)
    if done.returncode != 0:
        sys.exit(done.returncode)
    return done


def choose_data() -> str:
    """`mnist`, or the shipped sample if MNIST is not available."""
    print("$ onebit data mnist", flush=True)
    found = subprocess.run([sys.executable, "-m", "onebit", "data", "mnist"])
    if found.returncode == 0:
        return "mnist"
    print(
        "\nNOTE: MNIST is not on this machine and cannot be fetched (see above). The demo goes on with mnist-sample,\n"
        "8,000 training and 2,000 test digits that ship with onebit: its accuracies are lower than those on MNIST.",
        flush=True,
    )
    return "mnist-sample"


def write_digits(test: onebit.data.Split) -> list[str]:
    """The first test digits as PNG files."""
    DIGITS.mkdir(parents=True, exist_ok=True)
    files = []
    for i in range(DIGIT_COUNT):
        files.append(str(DIGITS / f"{i:02d}-is-{test.labels[i]}.png"))
        Image.fromarray(test.images[i, 0]).save(files[-1])
    return files


def classify(files: list[str]) -> None:
    """Run `onebit predict` on all files, in a process that checks that torch is not imported."""
    print(f"\n$ onebit predict {NET} {files[0]} {files[1]} … ({len(files)} images)", flush=True)
    command = [sys.executable, "-c", WITHOUT_TORCH, "predict", str(NET), *files, "--json"]
    started = time.perf_counter()
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, check=True)
    seconds = time.perf_counter() - started
    predictions = json.loads(done.stdout)["predictions"]
    for found in predictions[:4]:
        print(f"{found['file']}: {found['name']} ({100 * found['probability']:.1f} %)")
    print(f"… {len(files)} images in {seconds:.2f} s from start to answer; torch was not loaded")


def draw_answers(test: onebit.data.Split, path: Path, *, data: str) -> None:
    """A picture of right and wrong answers of the packed net on the test images."""

    probabilities = onebit.runtime.softmax(onebit.runtime.run(onebit.runtime.load(NET), test.images))
    onebit.report.plot_answers(
        test.images,
        path,
        labels=test.labels,
        predicted=probabilities.argmax(axis=1),
        probabilities=probabilities.max(axis=1),
        classes=tuple("0123456789"),
        data=data,
    )
    print(path)


def main() -> None:
    started = time.perf_counter()
    dataset = choose_data()
    shutil.rmtree(FOLDER, ignore_errors=True)
    # the sample has an eighth of the images: more passes give about as many steps
    more = [] if dataset == "mnist" else ["--dataset", dataset, "--validation", "1000", "--epochs", "30"]
    run_onebit("train", "mnist-fast", *more, "--out", str(FOLDER))
    run_onebit("verify", str(FOLDER))
    run_onebit("pack", str(FOLDER), "-o", str(NET))
    test = onebit.load_dataset(dataset).test
    digits = write_digits(test)
    classify(digits)
    run_onebit("bench", str(NET))
    run_onebit("report", str(FOLDER), "-o", str(FOLDER / "report"))
    draw_answers(test, FOLDER / "predictions.png", data=f"{dataset} test")
    run_onebit("export", str(NET), "--to", "html", "-o", str(PAGE))
    result = json.loads((FOLDER / "result.json").read_text())
    print(f"\n{dataset}{' (' + result['note'] + ')' if result['note'] else ''}: test accuracy")
    for mode, score in result["test"].items():
        print(
            f"  {mode + ' weights':<16} {100 * score['accuracy']:.2f} %  ({score['correct']:,} of {score['count']:,})"
        )
    size, parameters = os.path.getsize(NET), result["parameters"]
    print(f"packed: {size:,} bytes for {parameters:,} parameters; as float32 they take {4 * parameters:,}")
    print(f"everything is in {FOLDER}; the demo took {time.perf_counter() - started:.0f} s in all")
    print(try_next(digits[8], more), flush=True)


if __name__ == "__main__":
    main()
