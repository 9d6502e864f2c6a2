"""Build the site (`make docs`): write build/docs, the pages of docs and those made from code, and run Zensical on it.

Links to files outside of docs become links to copies of them. A warning of Zensical, or of griffe, which reads the
docstrings, is an error.
"""

from __future__ import annotations

import importlib
import inspect
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any

import onebit
from onebit.cli.verbs import VERBS
from onebit.recipe import build_recipe, read_settings, recipe_names, recipe_path

ROOT = Path(__file__).parents[1]
OUT, SITE = ROOT / "build" / "docs", ROOT / "site"
WORKER = "https://unpkg.com/iframe-worker/shim"
LINK = re.compile(r"(\[[^\]]*\])\(([^)\s#]+)(#[^)\s]*)?\)")
PAGES = {name: f"{name.lower()}.md" for name in ("CONTRIBUTING", "CHANGELOG", "SECURITY", "CODE_OF_CONDUCT")}
"""Documents in the root of the repository -> their pages."""
HOME: dict[str, str] = vars(onebit)["_HOME"]
"""Name of onebit itself -> the module that defines it."""
ROOMS = {
    "train": "history.EpochLog history.History distillation.Teacher",
    "trainer": "TrainerHistory",
    "data": "Split Images StreamedImages Augmentation Masks Tiling fetch_dataset whiten permute_pixels "
    "confusion_matrix class_scores pixel_scores DatasetEntry",
    "layers": "BinaryLayer BinaryParametrization RPReLU binary_layers",
    "quantizers": "BinaryWeight Quantizer SignedWeight BinaryInput IntegerInput scheduled Sign Stochastic SteSign Xnor "
    "MagnitudeAware SwishSign IRNet ReCU AdaBin ConcreteSign Prox ApproxSign EdeSign RSign InputAdaBin FewBits "
    "WeightQuantizerEntry InputQuantizerEntry",
    "optim": "BayesBiNN Bop CompanionOptimizer finish_steps_ latent_rate switch_ prox_ prox_latents_ OptimizerEntry "
    "settings.Optimizer",
    "models": "MLP ConvNet ResNet UNet ModelEntry settings.Model",
    "evaluation": "scores.Score predict_logits reestimate_batch_norm_",
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


def path_of(thing: Any) -> str:
    """The full path of a class or function, under the module that defines it."""
    return f"{thing.__module__}.{thing.__qualname__}"


def api_pages() -> Iterator[tuple[str, str]]:
    """(Path, Markdown) of each room and of the overview."""
    rows = []
    for room, others in ROOMS.items():
        module = importlib.import_module(f"onebit.{room}")
        top = {name: getattr(onebit, name) for name, home in HOME.items() if home.split(".")[1] == room}
        for name, thing in top.items():
            text = (inspect.getdoc(thing) or "").partition("\n\n")[0].replace("\n", " ")
            rows.append(f"| [`onebit.{name}`]({room}.md#{path_of(thing)}) | {text} |")
        shown = [*top.values(), *(attrgetter(name)(module) for name in others.split())]
        page = [f"# onebit.{room}", inspect.getdoc(module) or "", *(f"::: {path_of(thing)}" for thing in shown)]
        yield f"reference/api/{room}.md", "\n\n".join(page)
    table = "\n".join(["| name | what it does |", "|---|---|", *sorted(rows, key=str.lower)])
    text = "The names of `onebit` itself. Each room has a page: they are listed beside this one."
    yield "reference/api/onebit.md", f"# onebit\n\n{text}\n\n{table}"


def command_page() -> str:
    """Every verb, with the text of its `--help`."""
    page = ["# Command line", "The text of `onebit VERB --help` for every verb. `onebit --help` lists them:", help_of()]
    for verb, text in VERBS.items():
        page += [f"## {verb}", f"{text[0].upper()}{text[1:]}.", help_of(verb)]
    return "\n\n".join(page)


def help_of(*verb: str) -> str:
    command = [sys.executable, "-m", "onebit", *verb, "--help"]
    return f"```text\n{subprocess.run(command, stdout=subprocess.PIPE, text=True).stdout.strip()}\n```"


def recipe_page() -> str:
    """Every recipe: what it trains, on what, its source and its measured figure."""
    page = [
        "# Recipes",
        "`onebit train NAME` trains one; every setting is a flag, and `onebit train NAME --help` shows "
        "its value. [Accuracy](../results.md) has the measured figures in tables.",
    ]
    for name in recipe_names():
        recipe = build_recipe(read_settings(recipe_path(name)))
        measured = re.sub(r"onebit train [^;.]*[^;. ]", r"`\g<0>`", recipe.measured)
        facts = [f"data: `{recipe.dataset}`", f"model: `{recipe.model.name}`", f"epochs: {recipe.epochs:g}"]
        facts += [f"published: {recipe.reference}"] if recipe.reference else []
        facts += [f"measured: {measured}"]
        page += [f"## {name}", f"{recipe.summary}.", "\n".join(f"- {fact}" for fact in facts)]
    return "\n\n".join(page)


def relinked(document: Path) -> str:
    """The text of a document, with links for a page of the site."""

    def relink(found: re.Match[str]) -> str:
        text, target, anchor = found.groups(default="")
        if re.match(r"[a-z]+:", target):
            return found[0]
        path = (document.parent / target).resolve().relative_to(ROOT)
        if path.parts[0] == "docs":
            shown = path.relative_to("docs").as_posix()
        elif not (shown := {**PAGES, "README": "index.md"}.get(path.stem, "")):
            shown = f"files/{path.as_posix()}"
            (OUT / shown).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, OUT / shown)
        return f"{text}({shown}{anchor})"

    return LINK.sub(relink, document.read_text(encoding="utf-8"))


def write() -> None:
    """All pages, pictures and files."""
    shutil.rmtree(OUT, ignore_errors=True)
    shutil.copytree(ROOT / "docs", OUT)
    (OUT / "reference" / "api").mkdir(parents=True)
    pages = {page: relinked(ROOT / f"{name}.md") for name, page in PAGES.items()}
    pages |= {path.name: relinked(path) for path in (ROOT / "docs").glob("*.md")}
    pages |= {"reference/cli.md": command_page(), "reference/recipes.md": recipe_page(), **dict(api_pages())}
    for page, text in pages.items():
        (OUT / page).write_text(f"{text.rstrip()}\n", encoding="utf-8")


def loaded_from_the_web() -> list[str]:
    """Pages that load something from the network, after the script for searching in files has become ours."""
    found = []
    for page in SITE.rglob("*.html"):
        up = "../" * (len(page.relative_to(SITE).parts) - 1)
        text = page.read_text(encoding="utf-8").replace(WORKER, f"{up}site/worker.js")
        page.write_text(text, encoding="utf-8")
        if re.search(r"<(script|img|link rel=.stylesheet)[^>]* (src|href)=.https?:", text):
            found.append(f"{page} loads from the network")
    return found


def main() -> None:
    write()
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    built = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(built.stdout)
    sys.exit(built.returncode or "griffe:" in built.stdout or "\n".join(loaded_from_the_web()) or None)


if __name__ == "__main__":
    main()
