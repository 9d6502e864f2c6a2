"""Build the site (`make docs`): write build/docs, the pages of docs and those made from code, and run Zensical on it.

Links to files outside of docs become links to copies of them. A warning of Zensical, or of griffe, which reads the
docstrings, is an error.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import onebit
from onebit.__main__ import main
from onebit.cli.verbs import VERBS
from onebit.recipe import build_recipe, read_settings, recipe_names, recipe_path

ROOT = Path(__file__).parent.parent
OUT = ROOT / "build" / "docs"
WORKER = "https://unpkg.com/iframe-worker/shim"
LINK = re.compile(r"(\[[^\]]*\])\(([^)\s#]+)(#[^)\s]*)?\)")
PAGES = {name: f"{name.lower()}.md" for name in ("CONTRIBUTING", "CHANGELOG", "SECURITY", "CODE_OF_CONDUCT")}
"""Documents in the root of the repository -> their pages; the README's reader is at home in index.md."""
HOME: dict[str, str] = vars(onebit)["_HOME"]
"""Name of onebit itself -> the module that defines it."""
ROOMS = {
    "train": "EpochLog Fit History Teacher",
    "trainer": "TrainerHistory",
    "data": "Split Images StreamedImages Augmentation Masks Tiling fetch_dataset whiten permute_pixels "
    "confusion_matrix class_scores pixel_scores DatasetEntry",
    "layers": "BinaryLayer BinaryParametrization RPReLU binary_layers",
    "quantizers": "BinaryWeight Quantizer SignedWeight BinaryInput IntegerInput scheduled Sign Stochastic SteSign Xnor "
    "MagnitudeAware SwishSign IRNet ReCU AdaBin ConcreteSign Prox ApproxSign EdeSign RSign InputAdaBin FewBits "
    "WeightQuantizerEntry InputQuantizerEntry",
    "optim": "BayesBiNN Bop CompanionOptimizer finish_steps_ latent_rate switch_ prox_ prox_latents_ OptimizerEntry",
    "models": "MLP ConvNet ResNet UNet ModelEntry",
    "evaluation": "Score predict_logits reestimate_batch_norm_",
    "verification": "",
    "fold": "fold_model",
    "packed": "PackedNet InputSpec Card CardScore Certificate LayerProof Node loads dumps infer costs",
    "integer": "",
    "runtime": "native_plan softmax batches",
    "export": "Exported Comparison Target",
    "runs": "",
    "report": "write_report compare_runs compare_tasks plot_history plot_weights plot_health plot_answers "
    "plot_predictions",
    "recipe": "Recipe build_recipe read_settings recipe_names with_method",
    "nets": "net_names net_path",
    "errors": "OnebitError UsageError UnknownNameError WrongTypeError DataError FoldError FormatError NotBinaryError "
    "CheckpointError TrainingError",
}
"""Room -> its public names, beside those that `onebit` itself has."""
ELSEWHERE = {
    "EpochLog": "onebit.train.history",
    "History": "onebit.train.history",
    "Fit": "onebit.train.settings",
    "Teacher": "onebit.train.distillation",
    "Score": "onebit.evaluation.scores",
}
"""Public names that their room does not pass on."""


def first_line(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").partition("\n\n")[0].replace("\n", " ")


def api_pages() -> Iterator[tuple[str, str]]:
    """(Path, Markdown) of the overview and of each room."""
    home = {name: where.split(".")[1] for name, where in HOME.items()}
    rows = []
    for room, others in ROOMS.items():
        module = importlib.import_module(f"onebit.{room}")
        top = [name for name in HOME if home[name] == room]
        rows += [
            f"| [`onebit.{name}`]({room}.md#{where(name)}) | {first_line(getattr(onebit, name))} |" for name in top
        ]
        page = [f"# onebit.{room}", inspect.getdoc(module) or ""]
        page += [f"::: {where(name, room)}" for name in (*top, *others.split())]
        yield f"reference/api/{room}.md", "\n\n".join(page) + "\n"
    table = "\n".join(["| name | what it does |", "|---|---|", *sorted(rows, key=str.lower)])
    text = "The names of `onebit` itself. Each room has a page: they are listed beside this one.\n\n"
    yield "reference/api/onebit.md", f"# onebit\n\n{text}{table}\n"


def where(name: str, room: str = "") -> str:
    """The full path of a public name, under the module that defines it."""
    if name in HOME:
        found = getattr(onebit, name)
    else:
        found = getattr(importlib.import_module(ELSEWHERE.get(name, f"onebit.{room}")), name)
    return f"{found.__module__}.{found.__qualname__}"


def command_page() -> str:
    """Every verb, with the text of its `--help`."""
    page = [
        "# Command line",
        "The text of `onebit VERB --help` for every verb. `onebit --help` lists them:",
        overview(),
    ]
    for verb, text in VERBS.items():
        page += [f"## {verb}", f"{text[0].upper()}{text[1:]}.", overview(verb)]
    return "\n\n".join(page) + "\n"


def overview(*verb: str) -> str:
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        main([*verb, "--help"])
    return f"```text\n{shown.getvalue().strip()}\n```"


def training_time(recipe: str) -> str:
    """What the first seed of the results took."""
    log = ROOT / "docs" / "results" / recipe / "metrics.jsonl"
    if not log.exists():
        return ""
    seconds = sum(json.loads(line)["seconds"] for line in log.read_text(encoding="utf-8").splitlines())
    return f"{seconds:.0f} s on one CPU thread" if seconds < 600 else f"{seconds / 3600:.1f} h on one CPU thread"


def recipe_page() -> str:
    """Every recipe: what it trains, on what, its source and its measured figure."""
    page = [
        "# Recipes",
        "`onebit train NAME` trains one; every setting is a flag, and `onebit train NAME --help` shows "
        "its value. [Accuracy](../results.md) has the measured figures in tables.",
    ]
    for name in recipe_names():
        made = build_recipe(read_settings(recipe_path(name)))
        facts = {
            "data": f"`{made.dataset}`",
            "model": f"`{made.model.name}`",
            "epochs": f"{made.epochs:g}",
            "published": made.reference,
            "measured": re.sub(r"onebit train [^;.]*[^;. ]", r"`\g<0>`", made.measured),
            "time": training_time(name),
        }
        lines = [f"- {key}: {value}" for key, value in facts.items() if value]
        page += [f"## {name}", f"{made.summary}.", "\n".join(lines)]
    return "\n\n".join(page) + "\n"


def relink(folder: Path, found: re.Match[str]) -> str:
    """A link of a document in `folder`, as a link of a page of the site."""
    target, anchor = found[2], found[3] or ""
    if re.match(r"[a-z]+:", target):
        return found[0]
    path = (folder / target).resolve().relative_to(ROOT)
    if path.parts[0] == "docs":
        shown = path.relative_to("docs").as_posix()
    elif path.name == "README.md":
        shown = "index.md"
    elif path.stem in PAGES:
        shown = PAGES[path.stem]
    else:
        shown = f"files/{path.as_posix()}"
        (OUT / shown).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, OUT / shown)
    return f"{found[1]}({shown}{anchor})"


def write() -> None:
    """All pages, pictures and files."""
    shutil.rmtree(OUT, ignore_errors=True)
    shutil.copytree(ROOT / "docs", OUT)
    documents = {page: ROOT / f"{name}.md" for name, page in PAGES.items()}
    documents |= {path.name: path for path in (ROOT / "docs").glob("*.md")}
    for page, path in documents.items():
        text = LINK.sub(partial(relink, path.parent), path.read_text(encoding="utf-8"))
        (OUT / page).write_text(text, encoding="utf-8")
    (OUT / "reference" / "api").mkdir(parents=True)
    for page, text in (*api_pages(), ("reference/cli.md", command_page()), ("reference/recipes.md", recipe_page())):
        (OUT / page).write_text(text, encoding="utf-8")


def loaded_from_the_web() -> list[str]:
    """Pages that load something from the network, after the script for searching in files has become ours."""
    found = []
    for page in (ROOT / "site").rglob("*.html"):
        name = page.relative_to(ROOT / "site")
        ours = "../" * (len(name.parts) - 1) + "site/worker.js"
        text = page.read_text(encoding="utf-8").replace(WORKER, ours)
        page.write_text(text, encoding="utf-8")
        if re.search(r"<(script|img|link rel=.stylesheet)[^>]* (src|href)=.https?:", text):
            found.append(f"{name} loads from the network")
    return found


if __name__ == "__main__":
    write()
    built = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--clean", "--strict"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    print(built.stdout)
    sys.exit(built.returncode or "griffe:" in built.stdout or "\n".join(loaded_from_the_web()) or None)
