"""docs/results.md and the `measured` of recipes, from what is in docs/results: python -m tools.results

    python -m tools.results --take RUN...   first copy the results of finished runs; RUN may have several seeds
    python -m tools.results --train         first train what methods.json lacks and time training steps (hours)

docs/results/NAME/result.json has the figures of a recipe, docs/results/NAME/seed-N.json those of several tasks, and
docs/results/methods.json those of the methods: protocol -> method -> its command, the results of each seed, and the
ratio of its training step to plain torch. All runs are on one thread of a CPU.
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
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

import onebit
from tools.method_results import METHODS, UNTRAINED, bits_of, methods_table, train_methods
from tools.task_results import TASKS, tasks_measured, tasks_table

recipe, wording = onebit.recipe, onebit.report.wording

DOCUMENT = Path("docs/results.md")
RESULTS = Path("docs/results")
PUBLISHED = RESULTS / "published.yaml"
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
    ships = f"**{shown.pop('binary' if 'binary' in shown else 'real')}**"
    epochs, curve = f"{result['epochs']:g}", "error.png"
    return [
        f"[`{' '.join(filter(None, [name, result['flags']]))}`]({folder}/recipe.yaml)"
        f"{_reference(begun + taught, notes)}",
        f"{bits}{real}",
        ships,
        ", ".join(f"{figure} {mode}" for mode, figure in shown.items() if mode != "latent"),
        _seeds(result),
        f"[{epochs}]({folder}/{curve})" if (RESULTS / name / curve).exists() else epochs,
        _published(result, published, notes),
    ]


def _figure(score: Mapping[str, Any], dataset: str) -> str:
    """The figure of a test mode."""
    if "mean_iou" in score:
        return wording.share(score["mean_iou"])
    return percents(score, error=dataset.startswith("mnist")).removesuffix(" %")


def _reference(note: str, notes: list[str]) -> str:
    """The number of a note; rows with the same note share it."""
    if not note:
        return ""
    if note not in notes:
        notes.append(note)
    return f" <sup>{notes.index(note) + 1}</sup>"


def _published(result: Mapping[str, Any], published: Mapping[str, Any], notes: list[str]) -> str:
    """The published figure and our difference from it; the note has the source and other differences."""
    if not published:
        return ""
    note = _reference(published["note"], notes)
    score = result["test"][published["mode"]]
    ours = statistics.mean(score["correct"]) / score["count"]
    error = result["dataset"].startswith("mnist")
    figure = f"{100 - published['figure'] if error else published['figure']:.2f}"
    apart = (100 * ours - published["figure"]) * (-1 if error else 1)
    mode = "" if published["mode"] in ("binary", "real") else f" {published['mode']}"
    return f"{figure}{mode} ({'+' if apart > 0 else '−'}{abs(apart):.2f}){note}"


GROUPS = {
    "mnist": "test error in %",
    "fashion-mnist": "test accuracy in %",
    "cifar10": "test accuracy in %",
    "membrane": "test mean IoU",
}
"""Data set -> the figure in its table."""


def tables() -> dict[str, str]:
    """Data set -> its table as Markdown, with its notes."""
    published = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))
    made = {}
    for dataset, what in GROUPS.items():
        head = ["`onebit train`", "bits", what, "other modes", "seeds", "epochs", "published"]
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
    made["untrained"] = _untrained()
    record = json.loads(METHODS.read_text(encoding="utf-8"))
    return made | {name: methods_table(entries) for name, entries in record.items()}


def _untrained() -> str:
    names = (
        name
        for name in recipe.recipe_names()
        if recipe.read_settings(recipe.recipe_path(name))["measured"] == UNTRAINED
    )
    return ", ".join(f"`{name}`" for name in names) + "."


def written(text: str) -> str:
    """The document with new tables."""
    for name, table in tables().items():
        before, start, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        if not (start and end):
            sys.exit(f"{DOCUMENT}: expected <!-- {name} --> and <!-- end -->, each on a line")
        for part in (" ± ", ", real ends"):  # stay on one line
            table = table.replace(part, part.replace(" ", "\u00a0"))
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
