"""Train the recipes that need a GPU while one is available: python -m tools.gpu_day --minutes N

The most important runs come first, several at once. Small ones stop after the minutes and resume another day; the
others are trained in one go, with as many epochs as fit. Finished nets are packed. --home gets the files to keep and
to bring back the next day: logs, results and packed nets, and checkpoints of unfinished runs. Data are found as by
`onebit train`; nothing is downloaded. It also works on a CPU, slowly.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from onebit.recipe import build_recipe, read_settings, recipe_path

RUNS = Path("runs/gpu")
MOST_BYTES = 15 << 20
"""The limit for a file in --home."""
SHARE = 0.85
"""Share of the remaining time that the epochs of a run in one go may take; other runs slow it down."""
FEWEST = 0.1
"""Least share of the epochs of a recipe that a run in one go must have."""


@dataclass(frozen=True)
class Job:
    """A run. whole: in one go, with as many epochs as fit; else it can resume another day."""

    recipe: str
    seed: int = 0
    whole: bool = False
    flags: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.recipe}/seed-{self.seed}"

    @property
    def epochs(self) -> float:
        """The epochs of the whole run."""
        given = dict(zip(self.flags[::2], self.flags[1::2], strict=True)).get("--epochs")
        return float(given or build_recipe(read_settings(recipe_path(self.recipe))).epochs)


LONG = ("--epochs", "300", "--precision", "bf16")
# batches of 50 images leave most of a GPU idle
FULL = ("--batch_size", "100")
JOBS = (
    Job("cifar10-resnet20-adabin"),
    Job("cifar10-binaryconnect", whole=True, flags=FULL),
    Job("cifar10-vgg-bnn", whole=True),
    Job("cifar10-resnet20-binaryconnect", flags=LONG),
    Job("cifar10-resnet20-real", flags=LONG),
    Job("cifar10-bayesbinn", whole=True, flags=FULL),
    Job("cifar10-ste", whole=True, flags=FULL),
    *(Job("cifar10-resnet20-adabin", seed) for seed in (1, 2)),
    *(Job(name, 1, whole=True, flags=FULL) for name in ("cifar10-binaryconnect", "cifar10-vgg-bnn")),
)
"""The most important first."""


@dataclass
class Day:
    """The runs of one day. end: a value of `time.monotonic`. failed: whether a run ended with an error."""

    end: float
    runs: Path
    home: Path
    device: str = "auto"
    failed: bool = False

    @property
    def left(self) -> float:
        """Seconds."""
        return self.end - time.monotonic()

    def folder(self, job: Job) -> Path:
        return self.runs / job.name

    def result(self, job: Job) -> dict[str, Any] | None:
        file = self.folder(job) / "result.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None

    def rows(self, job: Job) -> list[dict[str, Any]]:
        """The epochs so far."""
        file = self.folder(job) / "metrics.jsonl"
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []

    def train(self, job: Job) -> None:
        """Train until the run is finished or the minutes are over."""
        if self.left <= 0 or self.result(job) is not None:
            return
        flags: tuple[str, ...] = (*job.flags, "--seed", str(job.seed))
        if job.whole:
            fitting = self.fitting_epochs(job, flags)
            if fitting < FEWEST * job.epochs:
                print(f"{job.name}: left for a longer day", flush=True)
                return
            shutil.rmtree(self.folder(job), ignore_errors=True)
            flags = (*flags, "--epochs", f"{min(fitting, job.epochs):g}")
        print(f"{job.name}: {self._onebit(job, flags, self.folder(job))}", flush=True)
        if self.result(job) is not None:
            self.pack(job)

    def fitting_epochs(self, job: Job, flags: Sequence[str]) -> int:
        """How many epochs fit into the remaining time, estimated from two epochs."""
        trial = self.runs / "trial" / job.name
        shutil.rmtree(trial, ignore_errors=True)
        started = time.monotonic()
        self._onebit(job, (*flags, "--epochs", "2"), trial)
        file = trial / "metrics.jsonl"
        seconds = [json.loads(line)["seconds"] for line in file.read_text().splitlines()] if file.exists() else []
        shutil.rmtree(trial, ignore_errors=True)
        if len(seconds) < 2:
            return 0
        beside = time.monotonic() - started - sum(seconds)
        return int(SHARE * (self.left - beside) / seconds[-1])

    def _onebit(self, job: Job, flags: Sequence[str], out: Path) -> str:
        """`onebit train` until it ends or the minutes are over; returns how it ended."""
        words = ["train", job.recipe, *flags, "--threads", "1", "--device", self.device, "--out", str(out), "--resume"]
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.with_suffix(".log").open("ab") as log:
            process = subprocess.Popen([sys.executable, "-m", "onebit", *words], stdout=log, stderr=log)
            try:
                if not process.wait(max(0.1, self.left)):
                    return "finished"
                self.failed = True
                return f"failed, see {log.name}"
            except subprocess.TimeoutExpired:
                process.terminate()
                process.wait()
                return "stopped"

    def pack(self, job: Job) -> None:
        """Pack a finished net, compared on a tenth of the test images."""
        net = self.folder(job) / "net.1bit"
        words = ["pack", str(self.folder(job)), "-o", str(net), "--images", "1000"]
        subprocess.run([sys.executable, "-m", "onebit", *words], stdout=subprocess.DEVNULL)

    def bring_back(self) -> None:
        """Unpack the files of another day."""
        for file in sorted(self.home.glob("*.tar.gz")):
            with tarfile.open(file) as tar:
                tar.extractall(self.runs, filter="data")

    def send_home(self, jobs: Iterable[Job]) -> None:
        """Write results.tar.gz, and a file for each unfinished run."""
        self.home.mkdir(parents=True, exist_ok=True)
        results: list[Path] = []
        for job in jobs:
            folder = self.folder(job)
            if not folder.exists():
                continue
            small = ("recipe.yaml", "metrics.jsonl", "result.json", "log.txt", "net.1bit")
            results += [file for name in small if (file := folder / name).exists()]
            if not job.whole and self.result(job) is None:
                self._tar(
                    f"{job.name.replace('/', '-')}.tar.gz",
                    [file for file in folder.iterdir() if file.is_file() and file.name[0] != "."],
                )
        if results:
            self._tar("results.tar.gz", results)

    def _tar(self, name: str, files: Sequence[Path]) -> None:
        made = io.BytesIO()
        with tarfile.open(fileobj=made, mode="w:gz") as tar:
            for file in files:
                tar.add(file, file.relative_to(self.runs))
        if made.tell() > MOST_BYTES:
            print(f"{name} has {made.tell():,} bytes and is not copied: expected at most {MOST_BYTES:,}")
            return
        (self.home / name).write_bytes(made.getvalue())

    def state(self, job: Job) -> str:
        """The progress in one line."""
        result, rows = self.result(job), self.rows(job)
        if result is not None:
            scores = [f"{100 * score['accuracy']:.2f} % {mode}" for mode, score in result["test"].items()]
            return f"{', '.join(scores)}; {result['epochs']:g} epochs, {result['seconds']:.0f} s"
        if rows and not job.whole:
            return f"goes on after epoch {rows[-1]['epoch']} of {job.epochs:g}"
        return "left"


def main(words: Sequence[str] | None = None, jobs: Sequence[Job] = JOBS) -> int:
    """Exit status: 1 where a training failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, required=True, help="until every run stops")
    parser.add_argument("--runs", type=Path, default=RUNS, help=f"folder of the run folders ({RUNS})")
    parser.add_argument("--home", type=Path, default=RUNS / "home", help="folder of the files to keep")
    parser.add_argument("--together", type=int, help="runs at once (4 on a GPU, else 1)")
    parser.add_argument("--device", default="auto", help="cuda, cpu, or auto")
    args = parser.parse_args(words)
    day = Day(time.monotonic() + 60 * args.minutes, args.runs, args.home, args.device)
    day.bring_back()
    with ThreadPoolExecutor(args.together or (4 if torch.cuda.is_available() else 1)) as pool:
        list(pool.map(day.train, jobs))
    day.send_home(jobs)
    for job in jobs:
        print(f"{job.name}: {day.state(job)}")
    return int(day.failed)


if __name__ == "__main__":
    sys.exit(main())
