"""docs/results.md, its pictures of several nets, and the `measured` of recipes; `python -m tools.results_table`.

    python -m tools.results_table --take RUN...      first copy what finished runs measured into docs/results

A run is a run folder, or the folder of several seeds. docs/results/NAME/result.json is the one place of its figures.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import json
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import onebit
from tools import results_tasks

recipe, wording = onebit.recipe, onebit.report.wording

DOCUMENT = Path("docs/results.md")
RESULTS = Path("docs/results")
PUBLISHED = RESULTS / "published.yaml"
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
"""Settings that make no other training, or are stated elsewhere."""
SHOWN_MASKS = {"mean_iou": "mean IoU", "dice": "Dice"}
TOGETHER = {"membrane-unet-mean-iou.png": ("membrane", "mean-iou.png")}
"""Picture of all nets of a data set -> (the data set, the picture of `onebit report`)."""
TASKS_FILE = "continual.json"
"""What a training on several tasks measured."""
LOGS_KEY = "logs"
"""Keyword of the PNG text chunk with the digest of the logs that a picture shows."""


def take(run: Path) -> str:
    """Copy a finished run to docs/results; returns the name of its recipe.

    Seeds that follow those which are there already are added to them, if all settings are the same. The curve and the
    log are those of the first seed.
    """
    folders = sorted(run.glob("seed-*"), key=lambda folder: int(folder.name[5:])) or [run]
    found = [json.loads((folder / "result.json").read_text(encoding="utf-8")) for folder in folders]
    name, seeds = found[0]["recipe"], [one["seed"] for one in found]
    if seeds != list(range(seeds[0], seeds[0] + len(seeds))):
        sys.exit(f"{run}: seeds {seeds}, expected one after the other, as the command that trains them again has them")
    settings = [settings_of(folder / "recipe.yaml") for folder in folders]
    if differing := sorted({key for other in settings for key in changes(other, settings[0])}):
        sys.exit(f"{run}: the seeds differ in {', '.join(differing)}")
    for one in found:
        refuse_other_place(run, one)
        if one["precision"] != found[0]["precision"]:
            sys.exit(f"{run}: seeds were trained in {found[0]['precision']} and in {one['precision']}")
    folder = RESULTS / name
    before = json.loads((folder / "result.json").read_text(encoding="utf-8")) if folder.exists() else {}
    changed = changes(settings[0], shipped(name))
    kept = ("bn", "count")
    result = {
        "recipe": name,
        "dataset": found[0]["dataset"],
        "note": found[0]["note"],
        "flags": " ".join(f"--{key} {shlex.quote(recipe.flag_text(value))}" for key, value in changed.items()),
        "seeds": seeds,
        "epochs": found[0]["epochs"],
        "chosen_epochs": [one["chosen_epoch"] for one in found],
        "chosen_by": found[0]["chosen_by"],
        "precision": found[0]["precision"],
        "test": {
            mode: {key: score[key] for key in kept}
            | {key: [one["test"][mode][key] for one in found] for key in SHOWN_MASKS if key in score}
            | {"correct": [one["test"][mode]["correct"] for one in found]}
            for mode, score in found[0]["test"].items()
        },
        "remark": before.get("remark", ""),
    }
    more = bool(before) and before["seeds"][-1] + 1 == seeds[0]
    if more:
        if differing := sorted(changes(settings_of(folder / "recipe.yaml"), settings[0])):
            sys.exit(f"{run}: has another {', '.join(differing)} than {folder}, whose seeds it would follow")
        result = with_more(before, result, of=name)
    folder.mkdir(exist_ok=True)
    (folder / "result.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if not more:
        shutil.copy(folders[0] / "metrics.jsonl", folder)
        keep_settings(folders[0] / "recipe.yaml", folder / "recipe.yaml")
        with tempfile.TemporaryDirectory() as made:
            subprocess.run([sys.executable, "-m", "onebit", "report", run, "-o", made], check=True)
            shutil.copy(Path(made) / "error.png", folder)
    return str(name)


def take_tasks(run: Path) -> str:
    """Copy what the seeds of a finished training on several tasks measured; returns the name of its recipe."""
    place = results_tasks.FOLDER
    for folder in sorted(run.glob("seed-*")):
        values = json.loads((folder / TASKS_FILE).read_text(encoding="utf-8"))
        if max(cell["task"] for cell in values["cells"]) < values["tasks"]:
            sys.exit(f"{folder}: not finished")
        results = [json.loads(file.read_text(encoding="utf-8")) for file in folder.glob("*/task-*/result.json")]
        for result in results:
            refuse_other_place(folder, result)
        [values["precision"]] = {result["precision"] for result in results}
        del values["folder"]
        (place / f"{folder.name}.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        keep_settings(folder / "recipe.yaml", place / "recipe.yaml")
    with tempfile.TemporaryDirectory() as made:
        subprocess.run([sys.executable, "-m", "onebit", "report", run, "-o", made], check=True)
        [picture] = Path(made).glob("tasks*.png")
        shutil.copy(picture, place / "tasks.png")
    return results_tasks.NAME


def with_more(first: Any, more: Any, *, of: str) -> Any:
    """A result.json with more seeds: lists have what each seed has, all else must be the same."""
    if isinstance(first, dict) and isinstance(more, dict) and first.keys() == more.keys():
        return {key: with_more(first[key], more[key], of=f"{of}, {key}") for key in first}
    if isinstance(first, list) and isinstance(more, list):
        return [*first, *more]
    if first != more:
        sys.exit(f"{of}: the first seeds have {first!r}, the others {more!r}")
    return first


def refuse_other_place(run: Path, result: Mapping[str, Any]) -> None:
    """End the program if a run has another device or more threads than the document states for all."""
    where = result["device"], result["threads"], result["processes"]
    if where != ("cpu", 1, 1):
        sys.exit("{}: trained on {} with {} threads in {} processes, expected cpu, 1, 1".format(run, *where))


def keep_settings(file: Path, copy: Path) -> None:
    """Copy the recipe of a run without what an earlier run of the same recipe measured."""
    lines = re.sub(r"^measured:.*\n(?: +.*\n)*", "", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    copy.write_text(lines, encoding="utf-8")


def logs(dataset: str) -> dict[str, Path]:
    """Recipe -> the folder of its log and settings, of all nets that were trained on a data set."""
    return {name: RESULTS / name for name, result in results().items() if result["dataset"] == dataset}


def digest_of_logs(dataset: str) -> str:
    """The SHA-256 of names and logs of the nets that a picture shows."""
    digest = hashlib.sha256()
    for name, folder in logs(dataset).items():
        digest.update(name.encode() + (folder / "metrics.jsonl").read_bytes())
    return digest.hexdigest()


def draw_together(picture: str) -> None:
    """Draw a picture of several nets from the logs in docs/results, unless it shows them already."""
    dataset, made = TOGETHER[picture]
    digest = digest_of_logs(dataset)
    with Image.open(RESULTS / picture) as before:
        if before.info.get(LOGS_KEY) == digest:
            return
    with tempfile.TemporaryDirectory() as scratch:
        runs = []
        for name, folder in logs(dataset).items():
            runs.append(Path(scratch) / name)
            runs[-1].mkdir()
            for file in ("metrics.jsonl", "recipe.yaml"):  # no result.json, which is not that of a run
                shutil.copy(folder / file, runs[-1])
        onebit.report.write_report(runs, Path(scratch) / "report")
        info = PngInfo()
        info.add_text(LOGS_KEY, digest)
        with Image.open(Path(scratch) / "report" / made) as drawn:
            drawn.save(RESULTS / picture, optimize=True, pnginfo=info)


def settings_of(path: Path, flags: Mapping[str, str] | None = None) -> dict[str, Any]:
    """All settings of a recipe, flat."""
    return flat(recipe.build_recipe(recipe.read_settings(path), flags or {}))


def flat(built: onebit.recipe.Recipe) -> dict[str, Any]:
    """All settings of a recipe that is built, as a run of it states them."""
    if built.validation is None:  # a run states the number
        built = dataclasses.replace(built, validation=onebit.data.DATASETS[built.dataset].validation)
    return built.values()


def changes(settings: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """What of the settings makes another training; arguments of a quantizer may be in one of them only."""
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
    """What trains it again."""
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
    """The epoch whose weights were tested, of several seeds from the first to the last one."""
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
    """Put it into the file of the recipe."""
    path = recipe.recipe_path(name)
    block = "\n".join(textwrap.wrap(text, 118, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False))
    before = path.read_text(encoding="utf-8")
    after, count = re.subn(r"^measured:.*\n(?:  .*\n)*", lambda _: f"measured: >-\n{block}\n", before, flags=re.M)
    assert count == 1, path
    path.write_text(after, encoding="utf-8")


def cells(result: Mapping[str, Any], published: Mapping[str, Any], notes: list[str]) -> list[str]:
    """A row of the table of a data set. What does not fit into a cell is appended to the notes below the table."""
    name, folder = result["recipe"], f"results/{result['recipe']}"
    settings = recipe.read_settings(RESULTS / name / "recipe.yaml")
    model, start, teacher = settings["model"], settings.get("init_from"), settings.get("teacher")
    begun = f"Begun with the weights of `{Path(start).name}`" if start else ""
    taught = f"{', taught' if begun else 'Taught'} by `{Path(teacher).name}`" if teacher else ""
    inputs = model["input_quantizer"]
    options = model.get("input_options") or {}
    bits = 32 if inputs is None else options.get("bits") or onebit.quantizers.INPUT_QUANTIZERS.entry(inputs).bits
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
        f"{'32' if model['weight_quantizer'] is None else '1'} / {bits}{real}",
        ships,
        shown.pop("latent", ""),
        ", ".join(f"{figure} {mode}" for mode, figure in shown.items()),
        _seeds(result),
        f"{_chosen(result)} of {result['epochs']:g}",
        _published(result, published, notes),
        ", ".join([*links, *nets]),
    ]


def _figure(score: Mapping[str, Any], dataset: str) -> str:
    """What the table of a data set shows of a test mode."""
    if "mean_iou" in score:
        return f"{wording.share(score['mean_iou'])} ({percents(score)} of the pixels)"
    return percents(score, error=dataset.startswith("mnist")).removesuffix(" %")


def _reference(note: str, notes: list[str]) -> str:
    """The number of a note, behind what it is about; lines with the same note share it."""
    if not note:
        return ""
    if note not in notes:
        notes.append(note)
    return f" <sup>{notes.index(note) + 1}</sup>"


@functools.cache
def _recipes_of_nets() -> dict[str, str | None]:
    """Net that ships -> the recipe on its card."""
    cards = {name: onebit.load(name).card for name in onebit.nets.net_names()}
    return {name: None if card is None else card.recipe for name, card in cards.items()}


def _published(result: Mapping[str, Any], published: Mapping[str, Any], notes: list[str]) -> str:
    """The published figure and how far ours is from it; the note has the source and what else differs."""
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
"""Data set -> what its table shows."""


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
    made["permuted"] = results_tasks.table()
    made["untrained"] = "\n".join(_untrained())
    return made


def _untrained() -> Iterator[str]:
    yield "| recipe | published |"
    yield "|---|---|"
    for name in recipe.recipe_names():
        settings = recipe.read_settings(recipe.recipe_path(name))
        if settings["measured"] == UNTRAINED:
            yield f"| `{name}` | {settings['reference']} |"


def written(text: str) -> str:
    """The document with its tables made anew."""
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
    for run in parser.parse_args().take:
        print(f"took {take_tasks(run) if any(run.glob(f'seed-*/{TASKS_FILE}')) else take(run)}")
    for name, result in results().items():
        write_measured(name, measured(result))
    write_measured(results_tasks.NAME, results_tasks.measured())
    for picture in TOGETHER:
        draw_together(picture)
    DOCUMENT.write_text(written(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
