"""docs/results.md and the `measured` of recipes, from what is in docs/results: python -m tools.results

    python -m tools.results --take RUN...   first copy the results of finished runs; RUN may have several seeds
    python -m tools.results --train         first train what methods.json lacks and time training steps (hours)

docs/results/NAME/result.json has the figures of a recipe, docs/results/NAME/seed-N.json those of several tasks, and
docs/results/methods.json those of the methods: protocol -> method -> its command, the results of each seed, and the
ratio of its training step to plain torch. All runs are on one thread of a CPU.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

import onebit
from benchmarks import training_step
from onebit.cli.train_command import read_command, train_request
from onebit.runs.result import read_table

recipe, wording = onebit.recipe, onebit.report.wording

DOCUMENT = Path("docs/results.md")
RESULTS = Path("docs/results")
METHODS, PUBLISHED = RESULTS / "methods.json", RESULTS / "published.yaml"
TASKS = "mnist-permuted-short"
"""The recipe of several tasks."""
RUNS = Path("runs/methods")
SEEDS = ("0", "1", "2")
UNTRAINED = "not yet trained"
"""`measured` of a recipe that is not trained yet."""
LAST = "last"
"""The epoch of a net that no validation images chose."""
MODES = {
    "real": "real weights",
    "binary": "binary weights",
    "latent": "latent weights",
    "mean": "mean weights",
    "sample": "one draw",
}
"""Test mode -> in words; `ensemble:10` is made of its number."""
NO_CHANGE = ("name", "summary", "reference", "measured", "seed", "threads", "workers", "device", "precision")
"""Settings that do not change training, or are stated elsewhere."""
SHOWN_MASKS = {"mean_iou": "mean IoU", "dice": "Dice"}


def take(run: Path) -> None:
    """Copy a finished run to docs/results, with curve and log of the first seed."""
    folders = sorted(run.glob("seed-*"), key=lambda folder: int(folder.name[5:])) or [run]
    found = [json.loads((folder / "result.json").read_text(encoding="utf-8")) for folder in folders]
    first = found[0]
    assert all((one["device"], one["threads"], one["processes"]) == ("cpu", 1, 1) for one in found), run
    assert all(one["precision"] == first["precision"] for one in found), run
    folder = RESULTS / first["recipe"]
    before = json.loads((folder / "result.json").read_text(encoding="utf-8")) if folder.exists() else {}
    changed = changes(settings_of(folders[0] / "recipe.yaml"), shipped(first["recipe"]))
    result = {key: first[key] for key in ("recipe", "dataset", "note", "epochs", "chosen_by", "precision")}
    result["flags"] = " ".join(f"--{key} {shlex.quote(recipe.flag_text(value))}" for key, value in changed.items())
    result |= {"seeds": [one["seed"] for one in found], "chosen_epochs": [one["chosen_epoch"] for one in found]}
    result["test"] = {
        mode: {key: score[key] for key in ("bn", "count")}
        | {key: [one["test"][mode][key] for one in found] for key in ("correct", *SHOWN_MASKS) if key in score}
        for mode, score in first["test"].items()
    }
    result["remark"] = before.get("remark", "")
    folder.mkdir(exist_ok=True)
    (folder / "result.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    shutil.copy(folders[0] / "metrics.jsonl", folder)
    keep_settings(folders[0] / "recipe.yaml", folder / "recipe.yaml")
    copy_picture(run, "error.png", folder / "error.png")


def take_tasks(run: Path) -> None:
    """Copy the results of a finished run on several tasks."""
    target = RESULTS / TASKS
    for folder in sorted(run.glob("seed-*")):
        values = json.loads((folder / "continual.json").read_text(encoding="utf-8"))
        results = [json.loads(file.read_text(encoding="utf-8")) for file in folder.glob("*/task-*/result.json")]
        [values["precision"]] = {result["precision"] for result in results}
        del values["folder"]
        (target / f"{folder.name}.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        keep_settings(folder / "recipe.yaml", target / "recipe.yaml")
    copy_picture(run, "tasks*.png", target / "tasks.png")


def copy_picture(run: Path, name: str, target: Path) -> None:
    """A picture of `onebit report`."""
    with tempfile.TemporaryDirectory() as made:
        subprocess.run([sys.executable, "-m", "onebit", "report", run, "-o", made], check=True)
        [picture] = Path(made).glob(name)
        shutil.copy(picture, target)


def keep_settings(file: Path, copy: Path) -> None:
    """Copy the recipe of a run without its `measured`, which describes an earlier run."""
    lines = re.sub(r"^measured:.*\n(?: +.*\n)*", "", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    copy.write_text(lines, encoding="utf-8")


def settings_of(path: Path, flags: Mapping[str, str] | None = None) -> dict[str, Any]:
    """All settings of a recipe, flat."""
    return flat(recipe.build_recipe(recipe.read_settings(path), flags or {}))


def flat(built: onebit.recipe.Recipe) -> dict[str, Any]:
    """All settings of a recipe, as its runs state them."""
    if built.validation is None:  # a run states the number
        built = replace(built, validation=onebit.data.DATASETS[built.dataset].validation)
    return built.values()


def changes(settings: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that change training; arguments of a quantizer may be in one of them only."""
    keys = {*settings, *others}.difference(NO_CHANGE)
    return {key: settings.get(key) for key in sorted(keys) if settings.get(key) != others.get(key)}


def shipped(name: str, flags: Mapping[str, str] | None = None) -> dict[str, Any]:
    """All settings of a recipe of onebit with these flags, flat."""
    return settings_of(recipe.recipe_path(name), flags)


def bits_of(weights: str | None, inputs: str | None, bits: int | None = None) -> str:
    """Bits of weights and inputs: "1 / 32"."""
    if inputs is not None and bits is None:
        bits = onebit.quantizers.INPUT_QUANTIZERS.entry(inputs).bits
    return f"{32 if weights is None else 1} / {bits or 32}"


def results() -> dict[str, dict[str, Any]]:
    """Recipe -> its result.json."""
    files = sorted(RESULTS.glob("*/result.json"))
    return {file.parent.name: json.loads(file.read_text(encoding="utf-8")) for file in files}


def percents(score: Mapping[str, Any], *, error: bool = False) -> str:
    """ "98.62 ± 0.05 %", over the seeds."""
    shares = [correct / score["count"] for correct in score["correct"]]
    return str(wording.percent([1 - share if error else share for share in shares]))


def command(result: Mapping[str, Any]) -> str:
    """The command that trains it again."""
    seeds = result["seeds"]
    listed = [f"--seeds {seeds[0]}-{seeds[-1]}"] if len(seeds) > 1 else [f"--seed {seeds[0]}"] if seeds[0] else []
    return " ".join(filter(None, ["onebit train", result["recipe"], result["flags"], *listed]))


def trained(result: Mapping[str, Any]) -> str:
    """Seeds and epochs in words."""
    chosen = _chosen(result)
    seed = f"seed{'s' if len(result['seeds']) > 1 else ''} {_seeds(result)}"
    epochs = f"{result['epochs']:g}"
    if chosen == LAST:
        return f"{seed}; the last of {epochs} epochs"
    return f"{seed}; epoch {chosen} of {epochs}, by {result['chosen_by']}"


def _seeds(result: Mapping[str, Any]) -> str:
    """The first and the last seed, or the only one."""
    seeds = result["seeds"]
    return f"{seeds[0]}–{seeds[-1]}" if len(seeds) > 1 else f"{seeds[0]}"


def _chosen(result: Mapping[str, Any]) -> str:
    """The epoch whose weights were tested; for several seeds, from the first to the last."""
    if result["chosen_by"] == "last epoch":
        return LAST
    chosen = result["chosen_epochs"]
    return "–".join(map(str, sorted({min(chosen), max(chosen)})))


def measured(result: Mapping[str, Any]) -> str:
    """The results in one sentence, for the recipe."""
    parts = []
    for mode, score in result["test"].items():
        masks = "".join(f", {word} {wording.share(score[key])}" for key, word in SHOWN_MASKS.items() if key in score)
        words = MODES.get(mode) or f"an ensemble of {mode.partition(':')[2]} draws"
        norm = "" if score["bn"] == "trained" else " and re-estimated BatchNorm"
        counts = ", ".join(f"{correct:,}" for correct in score["correct"])
        parts.append(f"{percents(score)}{masks} with {words}{norm} ({counts} of {score['count']:,})")
    what = "pixel accuracy" if any("mean_iou" in score for score in result["test"].values()) else "accuracy"
    note = result["note"].partition(";")[0]
    data = f" on {result['dataset']} ({note})" if note else ""
    remark = f". {result['remark']}" if result["remark"] else ""
    return (
        f"Test {what} {'; '.join(parts)}; {trained(result)}; {result['precision']}{data}; {command(result)} "
        f"--threads 1{remark}"
    )


def write_measured(name: str, text: str) -> None:
    """Write `measured` into the file of the recipe."""
    path = recipe.recipe_path(name)
    block = "\n".join(textwrap.wrap(text, 118, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False))
    before = path.read_text(encoding="utf-8")
    after, count = re.subn(r"^measured:.*\n(?:  .*\n)*", lambda _: f"measured: >-\n{block}\n", before, flags=re.M)
    assert count == 1, path
    path.write_text(after, encoding="utf-8")


def cells(result: Mapping[str, Any], published: Mapping[str, Any], notes: list[str]) -> list[str]:
    """A row of the table of a data set; long remarks are appended to the notes below the table."""
    name, folder = result["recipe"], f"results/{result['recipe']}"
    settings = recipe.read_settings(RESULTS / name / "recipe.yaml")
    model, start, teacher = settings["model"], settings.get("init_from"), settings.get("teacher")
    begun = f"Begun with the weights of `{Path(start).name}`" if start else ""
    taught = f"{', taught' if begun else 'Taught'} by `{Path(teacher).name}`" if teacher else ""
    options = model.get("input_options") or {}
    bits = bits_of(model["weight_quantizer"], model["input_quantizer"], options.get("bits"))
    ends = [end for end in ("first", "last") if model.get(f"real_{end}") and model["weight_quantizer"]]
    real = "" if not ends else ", real ends" if len(ends) == 2 else f", real {ends[0]} layer"
    shown = {mode: _figure(score, result["dataset"]) for mode, score in result["test"].items()}
    ships = f"**{shown.pop('binary')}**" if "binary" in shown else f"**{shown.pop('real')}** real"
    files = {"curve": "error.png", "log": "metrics.jsonl"}
    links = [f"[{word}]({folder}/{file})" for word, file in files.items() if (RESULTS / name / file).exists()]
    nets = [f"[`{net}`](nets.md)" for net, trained_by in _recipes_of_nets().items() if trained_by == name]
    return [
        f"[`{' '.join(filter(None, [name, result['flags']]))}`]({folder}/recipe.yaml)"
        f"{_reference(begun + taught, notes)}",
        f"{bits}{real}",
        ships,
        shown.pop("latent", ""),
        ", ".join(f"{figure} {mode}" for mode, figure in shown.items()),
        _seeds(result),
        f"{_chosen(result)} of {result['epochs']:g}",
        _published(result, published, notes),
        ", ".join([*links, *nets]),
    ]


def _figure(score: Mapping[str, Any], dataset: str) -> str:
    """The figure of a test mode."""
    if "mean_iou" in score:
        return f"{wording.share(score['mean_iou'])} ({percents(score)} of the pixels)"
    return percents(score, error=dataset.startswith("mnist")).removesuffix(" %")


def _reference(note: str, notes: list[str]) -> str:
    """The number of a note; rows with the same note share it."""
    if not note:
        return ""
    if note not in notes:
        notes.append(note)
    return f" <sup>{notes.index(note) + 1}</sup>"


@functools.cache
def _recipes_of_nets() -> dict[str, str | None]:
    """Shipped net -> the recipe on its card."""
    cards = {name: onebit.load(name).card for name in onebit.nets.net_names()}
    return {name: None if card is None else card.recipe for name, card in cards.items()}


def _published(result: Mapping[str, Any], published: Mapping[str, Any], notes: list[str]) -> str:
    """The published figure and our difference from it; the note has the source and other differences."""
    if not published:
        return ""
    note = _reference(published["note"], notes)
    if "figure" not in published:
        return f"none{note}"
    score = result["test"][published["mode"]]
    ours = statistics.mean(score["correct"]) / score["count"]
    error = result["dataset"].startswith("mnist")
    figure = f"{100 - published['figure'] if error else published['figure']:.2f}"
    apart = (100 * ours - published["figure"]) * (-1 if error else 1)
    mode = "" if published["mode"] in ("binary", "real") else f" {published['mode']}"
    return f"{figure}{mode} ({'+' if apart > 0 else '−'}{abs(apart):.2f}){note}"


GROUPS = {"mnist": "test error in %", "cifar10": "test accuracy in %", "membrane": "test mean IoU"}
"""Data set -> the figure in its table."""


def tables() -> dict[str, str]:
    """Data set -> its table as Markdown, with its notes."""
    published = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))
    made = {}
    for dataset, what in GROUPS.items():
        head = [
            "`onebit train`",
            "bits of weights / inputs",
            f"{what}, binary",
            "latent",
            "other modes",
            "seeds",
            "epoch",
            "published",
            "run",
        ]
        notes: list[str] = []
        rows = [
            cells(result, published.get(name, {}), notes)
            for name, result in results().items()
            if result["dataset"].removesuffix("-sample") == dataset
        ]
        shown = [column for column in zip(head, *rows, strict=True) if any(column[1:])]
        head, *rows = map(list, zip(*shown, strict=True))
        lines = [f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows]]
        numbered = [f"{number}. {note}." for number, note in enumerate(notes, 1)]
        made[dataset] = "\n".join([*lines, *([""] if notes else []), *numbered])
    made["permuted"] = tasks_table()
    made["untrained"] = "\n".join(_untrained())
    record = json.loads(METHODS.read_text(encoding="utf-8"))
    return made | {name: methods_table(entries) for name, entries in record.items()}


def _untrained() -> Iterator[str]:
    yield "| recipe | published |"
    yield "|---|---|"
    for name in recipe.recipe_names():
        settings = recipe.read_settings(recipe.recipe_path(name))
        if settings["measured"] == UNTRAINED:
            yield f"| `{name}` | {settings['reference']} |"


# ------------------------------------------------------------------------------------------------------- several tasks
LEARNERS = {"bayesbinn": "BayesBiNN", "ste": "STE"}
STATISTICS = {"trained": "of the latest task", "reestimate": "of each task"}
Grid = dict[tuple[str, ...], list[list[float]]]
"""(method, weights, BatchNorm) -> seed -> the accuracy on each task after the last one."""


def task_grid() -> tuple[Grid, dict[int, Path]]:
    """The accuracies, and the file of each seed."""
    files = {int(file.stem[5:]): file for file in sorted((RESULTS / TASKS).glob("seed-*.json"))}
    grid: Grid = {}
    for file in files.values():
        table = read_table(file)
        last = [cell for cell in table.cells if cell.task == table.tasks]
        for block in dict.fromkeys(cell.block for cell in last):
            grid.setdefault(block, []).append([cell.accuracy for cell in last if cell.block == block])
    return grid, files


def tasks_measured() -> str:
    """The results of several tasks in one sentence, for the recipe."""
    grid, files = task_grid()
    seeds = f"{min(files)}-{max(files)}"
    [precision] = {json.loads(file.read_text(encoding="utf-8"))["precision"] for file in files.values()}
    parts = [f"{_learner(row)} {_mean(of)} (BatchNorm {STATISTICS[row[2]]})" for row, of in grid.items()]
    return (
        f"Mean test accuracy over the five tasks after the last one, each with its permutation: {'; '.join(parts)}; "
        f"seeds {seeds.replace('-', '–')}; 10 epochs a task; {precision}; onebit train {TASKS} --seeds {seeds}"
    )


def tasks_table() -> str:
    """A row for each method, test mode and BatchNorm statistics, with the accuracy in % on each task."""
    grid, _ = task_grid()
    count = len(next(iter(grid.values()))[0])
    lines = [f"| method, weights | BatchNorm | task 1 | {' | '.join(map(str, range(2, count + 1)))} | mean |"]
    lines.append("|---" * (count + 3) + "|")
    for row, of in grid.items():
        figures = [wording.plus_minus(list(column), ".1f", scale=100) for column in zip(*of, strict=True)]
        lines.append(f"| {_learner(row)} | {STATISTICS[row[2]]} | {' | '.join(figures)} | **{_mean(of)}** |")
    return "\n".join(lines)


def _learner(row: Sequence[str]) -> str:
    return f"{LEARNERS[row[0]]}, {row[1]}"


def _mean(seeds: Iterable[Sequence[float]]) -> str:
    """The mean over tasks, then mean and standard deviation over seeds."""
    return str(wording.percent([sum(one) / len(one) for one in seeds]))


# ------------------------------------------------------------------------------------------------------------- methods
METHOD_MODES = ("latent", "mean", "sample", "ensemble:10")
"""Test modes with a column."""


def recipe_of(entry: Mapping[str, Any]) -> recipe.Recipe:
    """The recipe of the command of a row."""
    return train_request(read_command(shlex.split(entry["command"])[1:])).recipe


def train_methods(record: dict[str, dict[str, Any]]) -> None:
    """Train the seeds that the record lacks, then time a step of each method."""
    for protocol, entries in record.items():
        for method, entry in entries.items():
            folder = RUNS / protocol / method
            if missing := [seed for seed in SEEDS if seed not in entry["seeds"]]:
                resume = ["--resume"] if folder.exists() else []
                words = [*shlex.split(entry["command"]), "--seeds", ",".join(missing), "--out", str(folder), *resume]
                subprocess.run([sys.executable, "-m", "onebit", *words], check=True)
                entry["seeds"] = dict(sorted((entry["seeds"] | measured_seeds(folder)).items()))
                entry.pop("before", None)
        for method, ratio in time_steps(entries).items():
            entries[method]["step"] = round(ratio, 4)
    METHODS.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def measured_seeds(folder: Path) -> dict[str, Any]:
    """Seed -> the results of its finished run."""
    found = {}
    for file in sorted(folder.glob("seed-*/result.json")):
        result = json.loads(file.read_text(encoding="utf-8"))
        log = (file.parent / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        flips = [round(json.loads(row)["flip_ratio"], 6) for row in (log[0], log[-1])]
        scores = {mode: {key: score[key] for key in ("correct", "count")} for mode, score in result["test"].items()}
        found[str(result["seed"])] = {"test": scores, "flip_ratios": flips}
    return found


def time_steps(entries: Mapping[str, Any], **turns: Any) -> dict[str, float]:
    """Method -> the ratio of its training step to that of plain torch, in bf16 where the machine multiplies it."""
    how: dict[str, Any] = {"device": torch.device("cpu"), "rounds": 11, "seconds": 0.2, **turns}
    how["mode"] = training_step.MODES["eager"]
    how["precision"] = "bf16" if onebit.train.precision.multiplies_bf16(how["device"]) else "fp32"
    steps = {}
    for method, entry in entries.items():
        trained = recipe_of(entry)
        steps[method] = training_step.compare(trained, training_step.NETS[trained.model.name], **how)["ratio"]
    return steps


def method_cells(entry: Mapping[str, Any]) -> dict[str, str]:
    """Column -> cell of a row; `before` has the cells of runs whose single figures were not kept."""
    if "before" in entry:
        return dict(entry["before"])
    runs = list(entry["seeds"].values())
    modes = runs[0]["test"] if runs else ()
    shown = {
        mode: str(wording.percent([run["test"][mode]["correct"] / run["test"][mode]["count"] for run in runs]))
        for mode in modes
    }
    if runs and "real" not in shown:
        first, last = (statistics.mean(run["flip_ratios"][i] for run in runs) for i in (0, 1))
        shown["flips"] = f"{100 * first:.2f} → {100 * last:.3f} %"
    return shown | {"seeds": wording.number_range([int(seed) for seed in entry["seeds"]])} if runs else {}


def methods_table(entries: Mapping[str, Any]) -> str:
    """The rows of a protocol as Markdown; untrained methods are marked."""
    rows = {method: method_cells(entry) for method, entry in entries.items()}
    modes = [mode for mode in METHOD_MODES if any(mode in row for row in rows.values())]
    head = ["method", "bits of weights / inputs", "test accuracy, binary (real: real)", *modes]
    lines = [[*head, "flips, first → last epoch", "seeds", "step, to plain torch"]]
    lines.append(["---"] * len(lines[0]))
    for method, row in rows.items():
        if not row:
            lines.append([f"`{method}`", "", UNTRAINED, *[""] * (len(lines[0]) - 3)])
            continue
        model, step = recipe_of(entries[method]).model, entries[method].get("step")
        cells = [f"`{method}`", bits_of(model.weight_quantizer, model.input_quantizer)]
        cells += [f"**{row['binary']}**" if "binary" in row else row["real"]]
        cells += [row.get(column, "") for column in (*modes, "flips", "seeds")]
        lines.append([*cells, "" if step is None else f"{step:.2f}"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def written(text: str) -> str:
    """The document with new tables."""
    for name, table in tables().items():
        before, start, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        if not (start and end):
            sys.exit(f"{DOCUMENT}: expected <!-- {name} --> and <!-- end -->, each on a line")
        text = f"{before}{start}{table}\n{end}{after}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--take", type=Path, nargs="+", default=[], metavar="RUN", help="finished runs to copy first")
    parser.add_argument("--train", action="store_true", help="first train what methods.json lacks")
    args = parser.parse_args()
    for run in args.take:
        (take_tasks if any(run.glob("seed-*/continual.json")) else take)(run)
    if args.train:
        train_methods(json.loads(METHODS.read_text(encoding="utf-8")))
    for name, result in results().items():
        write_measured(name, measured(result))
    write_measured(TASKS, tasks_measured())
    DOCUMENT.write_text(written(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
