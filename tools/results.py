"""docs/results.md and the `measured` of recipes, from what is in docs/results: python -m tools.results

    python -m tools.results --take RUN...   first copy the results of finished runs; RUN may have several seeds
    python -m tools.results --train         first train all methods, but for finished runs, and time their steps (hours)

docs/results/NAME/result.json has the figures of a recipe, docs/results/NAME/seed-N.json those of several tasks, and
docs/results/methods.json those of the methods: protocol -> method -> its command, the results of each seed, and the
ratio of its training step to plain torch. All runs are on a CPU;
docs/results/NAME/recipe.yaml has their threads.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

import onebit
from benchmarks import training_step
from onebit.cli.train_command import read_command, train_request
from onebit.recipe import Recipe, build_recipe, read_settings, recipe_names, recipe_path
from onebit.report.tasks import NORMS, Row, task_rows
from onebit.report.wording import number_range, percent, plus_minus, share
from onebit.runs.result import read_table

DOCUMENT = Path(__file__).parents[1] / "docs" / "results.md"
RESULTS = DOCUMENT.with_suffix("")
METHODS = RESULTS / "methods.json"
TASKS = "mnist-permuted-short"
"""The recipe of several tasks."""
LEARNERS = {"bayesbinn": "BayesBiNN", "ste": "STE"}
MEASURED = re.compile(r"^measured:.*\n(?: +.*\n)*", re.MULTILINE)
UNTRAINED = "not yet trained"
"""`measured` of a recipe that is not trained yet."""
DRAWS = {"sample": "one draw", "ensemble:10": "an ensemble of 10 draws"}
"""Test mode -> in words; the others are weights."""
MASKS = {"mean_iou": "mean IoU", "dice": "Dice"}
GROUPS = {
    "mnist": "test error in %",
    "fashion-mnist": "test accuracy in %",
    "cifar10": "test accuracy in %",
    "membrane": "test mean IoU",
}
"""Data set -> the figure in its table."""


def load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def save(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def results() -> dict[str, dict[str, Any]]:
    """Recipe -> its result.json."""
    return {file.parent.name: load(file) for file in sorted(RESULTS.glob("*/result.json"))}


def stored_recipe(name: str) -> Recipe:
    """The recipe that a result was trained with."""
    return build_recipe(read_settings(RESULTS / name / "recipe.yaml"))


# ---------------------------------------------------------------------------------------------------------------- runs
def take(run: Path) -> None:
    """Copy the results of a finished run to docs/results, with the picture of all seeds and the log of the first."""
    folders = sorted(run.glob("seed-*"), key=lambda folder: int(folder.name[5:])) or [run]
    target = RESULTS / read_settings(folders[0] / "recipe.yaml")["name"]
    target.mkdir(exist_ok=True)
    settings = (folders[0] / "recipe.yaml").read_text(encoding="utf-8")
    (target / "recipe.yaml").write_text(MEASURED.sub("", settings), encoding="utf-8")  # that of an earlier run
    with tempfile.TemporaryDirectory() as report:
        onebit.report.write_report([run], Path(report))
        for picture in (*Path(report).glob("error.png"), *Path(report).glob("tasks*.png")):
            shutil.copy(picture, target / f"{picture.stem.partition('-')[0]}.png")
    if target.name == TASKS:
        for folder in folders:
            one = load(next(folder.glob("*/task-*/result.json")))
            values = load(folder / "continual.json") | {"precision": one["precision"]}
            del values["folder"]
            save(target / f"{folder.name}.json", values)
        return
    first = load(folders[0] / "result.json")
    threads = stored_recipe(target.name).threads
    assert (first["device"], first["threads"], first["processes"]) == ("cpu", threads, 1), run
    result = {key: first[key] for key in ("recipe", "dataset", "note", "epochs", "chosen_by", "precision")}
    result |= scores(folders) | {"remark": results().get(target.name, {}).get("remark", "")}
    save(target / "result.json", result)
    shutil.copy(folders[0] / "metrics.jsonl", target)


def scores(folders: Sequence[Path]) -> dict[str, Any]:
    """Seeds, chosen epochs and test results of finished runs, each a list over the runs."""
    runs = [load(folder / "result.json") for folder in folders]
    test = {
        mode: {"bn": score["bn"], "count": score["count"]}
        | {key: [one["test"][mode][key] for one in runs] for key in ("correct", *MASKS) if key in score}
        for mode, score in runs[0]["test"].items()
    }
    seeds, chosen = ([one[key] for one in runs] for key in ("seed", "chosen_epoch"))
    return {"seeds": seeds, "chosen_epochs": chosen, "test": test}


def recipe_of(entry: Mapping[str, Any]) -> Recipe:
    """The recipe of the command of a method."""
    return train_request(read_command(shlex.split(entry["command"])[1:]))


def train_methods() -> None:
    """Train all methods with three seeds, and time a step of each."""
    record = load(METHODS)
    for protocol, entries in record.items():
        for method, entry in entries.items():
            folder = Path("runs/methods") / protocol / method
            words = [*shlex.split(entry["command"]), "--seeds", "0-2", "--out", str(folder), "--resume"]
            subprocess.run([sys.executable, "-m", "onebit", *words], check=True)
            step = round(time_step(entry), 4)
            entries[method] = {"command": entry["command"], **scores(sorted(folder.glob("seed-*"))), "step": step}
            save(METHODS, record)


def time_step(entry: Mapping[str, Any], *, rounds: int = 11, seconds: float = 0.2) -> float:
    """The ratio of a training step to that of plain torch, in bf16 where the machine multiplies it."""
    recipe, device = recipe_of(entry), torch.device("cpu")
    mode = training_step.MODES["eager"]
    where: dict[str, Any] = {"device": device, "precision": "fp32"}
    if onebit.train.precision.multiplies_bf16(device):
        where["precision"] = "bf16"
    return training_step.compare(recipe, mode=mode, rounds=rounds, seconds=seconds, **where)["ratio"]


# ------------------------------------------------------------------------------------------------ `measured` of recipes
def accuracy(score: Mapping[str, Any], *, error: bool = False) -> str:
    """ "98.62 ± 0.05 %", over the seeds."""
    shares = [correct / score["count"] for correct in score["correct"]]
    return percent([1 - one if error else one for one in shares])


def measured(result: Mapping[str, Any]) -> str:
    """The results in one sentence, for the recipe."""
    parts = []
    for mode, score in result["test"].items():
        masks = "".join(f", {word} {share(score[key])}" for key, word in MASKS.items() if key in score)
        norm = "" if score["bn"] == "trained" else " and re-estimated BatchNorm"
        counts = ", ".join(f"{correct:,}" for correct in score["correct"])
        words = DRAWS.get(mode, f"{mode} weights")
        parts.append(f"{accuracy(score)}{masks} with {words}{norm} ({counts} of {score['count']:,})")
    what = "pixel accuracy" if result["dataset"] == "membrane" else "accuracy"
    epochs = f"epoch {number_range(result['chosen_epochs'])} of {result['epochs']:g}, by {result['chosen_by']}"
    if result["chosen_by"] == "last epoch":
        epochs = f"the last of {result['epochs']:g} epochs"
    note = result["note"].partition(";")[0]
    data = f" on {result['dataset']} ({note})" if note else ""
    seeds = f"{'seeds' if len(result['seeds']) > 1 else 'seed'} {number_range(result['seeds'])}"
    flag = "" if result["seeds"] == [0] else f" --{seeds.replace('–', '-')}"
    return (
        f"Test {what} {'; '.join(parts)}; {seeds}; {epochs}; {result['precision']}{data}; "
        f"onebit train {result['recipe']}{flag} --threads {stored_recipe(result['recipe']).threads}"
        f"{'. ' if result['remark'] else ''}{result['remark']}"
    )


def write_measured(name: str, text: str) -> None:
    """Write `measured` into the file of the recipe."""
    path = recipe_path(name)
    block = "\n".join(textwrap.wrap(text, 118, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False))
    before = path.read_text(encoding="utf-8")
    path.write_text(MEASURED.sub(lambda _: f"measured: >-\n{block}\n", before), encoding="utf-8")


# -------------------------------------------------------------------------------------------------------------- tables
def bits_of(recipe: Recipe) -> str:
    """Bits of weights and inputs: "1/32"."""
    inputs, options = recipe.model.input_quantizer, recipe.model.input_options or {}
    bits = options.get("bits") or (inputs and onebit.quantizers.INPUT_QUANTIZERS.entry(inputs).bits)
    return f"{32 if recipe.model.weight_quantizer is None else 1}/{bits or 32}"


def table(head: list[str], rows: list[list[str]], right: int = 0) -> str:
    """A table as Markdown, without columns that are empty; the last ones may be aligned right."""
    columns = [column for column in zip(head, *rows, strict=True) if any(column[1:])]
    lines = [f"| {' | '.join(row)} |" for row in zip(*columns, strict=True)]
    lines.insert(1, "|" + "---|" * (len(columns) - right) + "---:|" * right)
    return "\n".join(lines)


def cells(result: Mapping[str, Any], published: Mapping[str, Any], notes: list[str]) -> list[str]:
    """A row of the table of a data set; long remarks are appended to the notes below the table."""
    name, folder = result["recipe"], f"results/{result['recipe']}"
    recipe = stored_recipe(name)
    begun = f"Begun with the weights of `{Path(recipe.init_from).name}`" if recipe.init_from else ""
    taught = f"{', taught' if begun else 'Taught'} by `{Path(recipe.teacher).name}`" if recipe.teacher else ""
    real = ""
    if recipe.model.weight_quantizer is not None:
        ends = {"first": recipe.model.real_first, "last": recipe.model.real_last}
        kept = [end for end, is_real in ends.items() if is_real]
        real = ["", f", real {''.join(kept)} layer", ",\u00a0real\u00a0ends"][len(kept)]
    shown = {mode: figure(score, result["dataset"]) for mode, score in result["test"].items() if mode != "latent"}
    ships = shown.pop("binary" if "binary" in shown else "real")
    epochs, curve = f"{result['epochs']:g}", "error.png"
    return [
        f"[`{name}`]({folder}/recipe.yaml){reference(begun + taught, notes)}",
        bits_of(recipe) + real,
        f"**{ships}**",
        ", ".join(f"{text} {mode}" for mode, text in shown.items()),
        number_range(result["seeds"]),
        f"[{epochs}]({folder}/{curve})" if (RESULTS / name / curve).exists() else epochs,
        compared(result, published, notes) if published else "",
    ]


def figure(score: Mapping[str, Any], dataset: str) -> str:
    """The figure of a test mode."""
    if "mean_iou" in score:
        return share(score["mean_iou"])
    return accuracy(score, error=dataset.startswith("mnist")).removesuffix(" %")


def reference(note: str, notes: list[str]) -> str:
    """The number of a note; rows with the same note share it."""
    if not note:
        return ""
    if note not in notes:
        notes.append(note)
    return f" <sup>{notes.index(note) + 1}</sup>"


def compared(result: Mapping[str, Any], published: Mapping[str, Any], notes: list[str]) -> str:
    """The published figure and our difference from it; the note has the source and other differences."""
    score, theirs = result["test"][published["mode"]], published["figure"]
    ours = 100 * statistics.mean(score["correct"]) / score["count"]
    if result["dataset"].startswith("mnist"):
        ours, theirs = 100 - ours, 100 - theirs
    mode = "" if published["mode"] in ("binary", "real") else f" {published['mode']}"
    sign = "+" if ours > theirs else "−"
    return f"{theirs:.2f}{mode} ({sign}{abs(ours - theirs):.2f}){reference(published['note'], notes)}"


def accuracy_of(entry: Mapping[str, Any]) -> str:
    """Test accuracy in % over the seeds, "97.94 ± 0.06", of what ships; "" if untrained.

    `before` has the text of runs whose single figures were not kept.
    """
    tests = entry.get("before") or entry.get("test", {})
    score = tests.get("binary") or tests.get("real")
    return "" if score is None else (score if isinstance(score, str) else accuracy(score)).removesuffix(" %")


def methods_table(entries: Mapping[str, Any]) -> str:
    """A row for each method of a protocol; untrained methods are marked."""
    rows = []
    for method, entry in entries.items():
        step = f"{entry['step']:.2f}" if "step" in entry else ""
        rows.append([f"`{method}`", bits_of(recipe_of(entry)), accuracy_of(entry) or UNTRAINED, step])
    return table(["method", "bits", "test accuracy in %", "step"], rows, right=2)


def last_tasks() -> tuple[list[Row], list[int], str]:
    """The accuracies on all tasks after the last one, the seeds, and the precision."""
    files = {int(file.stem[5:]): file for file in sorted((RESULTS / TASKS).glob("seed-*.json"))}
    tables = [read_table(file) for file in files.values()]
    rows = [row for row in task_rows([one.cells for one in tables]) if row.task == tables[0].tasks]
    [precision] = {load(file)["precision"] for file in files.values()}
    return rows, list(files), precision


def tasks_measured() -> str:
    """The results of several tasks in one sentence, for the recipe."""
    rows, seeds, precision = last_tasks()
    parts = [f"{LEARNERS[row.method]}, {row.weights} {percent(row.means)} ({NORMS[row.bn]})" for row in rows]
    return (
        f"Mean test accuracy over the five tasks after the last one, each with its permutation: {'; '.join(parts)}; "
        f"seeds {seeds[0]}–{seeds[-1]}; 10 epochs a task; {precision}; onebit train {TASKS} --seeds "
        f"{seeds[0]}-{seeds[-1]}"
    )


def tasks_table() -> str:
    """A row for each method, test mode and BatchNorm statistics, with the accuracy in % on each task."""
    rows = [
        [
            f"{LEARNERS[row.method]}, {row.weights}",
            NORMS[row.bn].removeprefix("BatchNorm "),
            *(plus_minus(accuracies, ".1f", scale=100) for accuracies in row.accuracies),
            f"**{percent(row.means)}**",
        ]
        for row in last_tasks()[0]
    ]
    tasks = ["task 1", *map(str, range(2, len(rows[0]) - 2))]
    return table(["method, weights", "BatchNorm", *tasks, "mean"], rows)


def tables() -> dict[str, str]:
    """Name in the document -> its table as Markdown, with its notes."""
    published = yaml.safe_load((RESULTS / "published.yaml").read_text(encoding="utf-8"))
    found = {}
    for dataset, what in GROUPS.items():
        notes: list[str] = []
        rows = [
            cells(result, published.get(name, {}), notes)
            for name, result in results().items()
            if result["dataset"].removesuffix("-sample") == dataset
        ]
        head = ["`onebit train`", "bits", what, "other modes", "seeds", "epochs", "published"]
        numbered = [f"{number}. {note}." for number, note in enumerate(notes, 1)]
        found[dataset] = "\n".join([table(head, rows), *([""] if notes else []), *numbered])
    untrained = [name for name in recipe_names() if read_settings(recipe_path(name))["measured"] == UNTRAINED]
    found |= {"permuted": tasks_table(), "untrained": ", ".join(f"`{name}`" for name in untrained) + "."}
    return found | {name: methods_table(entries) for name, entries in load(METHODS).items()}


def written(text: str) -> str:
    """The document with new tables."""
    for name, shown in tables().items():
        before, start, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        assert start, name
        assert end, name
        shown = shown.replace(" ± ", "\u00a0±\u00a0")  # stays on one line
        text = f"{before}{start}{shown}\n{end}{after}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--take", type=Path, nargs="+", default=[], metavar="RUN", help="finished runs to copy first")
    parser.add_argument("--train", action="store_true", help="first train what methods.json lacks")
    args = parser.parse_args()
    for run in args.take:
        take(run)
    if args.train:
        train_methods()
    for name, result in results().items():
        write_measured(name, measured(result))
    write_measured(TASKS, tasks_measured())
    DOCUMENT.write_text(written(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
