"""The card of a packed net, from its run: only known facts, no paths, no machines."""

from __future__ import annotations

import json
import re
import shlex
import warnings
from typing import Any

from onebit.common.custom_names import short_name
from onebit.common.files import read_regular
from onebit.data import DATASETS
from onebit.errors import UsageError, shortened
from onebit.nets import net_names
from onebit.packed import Card, CardScore, Certificate
from onebit.packed.card import MAX_CARD_TEXT_LENGTH, ROUNDED
from onebit.recipe import Recipe, build_recipe, flag_text, method_of, read_settings, recipe_names, recipe_path
from onebit.runs.opening import Run
from onebit.runs.result import RunResult
from onebit.train.history import MAX_METRICS, RESULT_FILE
from onebit.train.weights import weight_file

_PATH = re.compile(r"[/\\~]")
SAME_TRAINING = {"seed", "validation", "device", "precision"}
"""Settings that may differ without making the summary of a recipe wrong."""


def run_card(run: Run, certificate: Certificate | None, *, other_files: bool = False) -> Card | None:
    """The card of a trained net; None if no recipe is stored with it.

    Args:
        certificate: of the packed net, with the accuracy of the test mode "packed".
        other_files: whether the certificate is about other data than those of the training; its accuracy is left out.
    """
    recipe, folder = run.recipe, run.source.parent
    if not isinstance(run.facts.get("recipe"), dict) and not (folder / "recipe.yaml").is_file():
        return None
    stored = stored_result(run)
    if not stored.is_about(run.sha256):
        warnings.warn(f"{run.source} is not what its result.json is about: its scores are left out", stacklevel=2)
        stored = RunResult({})
    result = stored.values
    scores = {mode: card_score(score) for mode, score in stored.test.items() if "correct" in score}
    if certificate is not None and certificate.correct is not None:
        whole = certificate.split == "test" and certificate.images is None
        if whole and not other_files and certificate.dataset == recipe.dataset and certificate.compared == "labels":
            scores["packed"] = CardScore(correct=certificate.correct, count=certificate.count)
    command, described = _command(recipe)
    data = data_in_words(recipe.dataset, result.get("note"))
    unfinished = _unfinished(run)
    return Card(
        summary=_text(recipe.summary) if described else None,
        dataset=recipe.dataset or None,
        data=data,
        license=None if data is None else DATASETS[recipe.dataset].licence,
        method="; ".join(filter(None, (_method(recipe, certificate), unfinished))),
        recipe=_text(recipe.name),
        reference=_text(recipe.reference) if described else None,
        command=None if unfinished else command,  # which trains all epochs
        seed=recipe.seed if result else None,
        epochs=recipe.epochs if result else None,
        chosen_epoch=result.get("chosen_epoch"),
        chosen_by=result.get("chosen_by"),
        test=scores,
    )


def stored_result(run: Run) -> RunResult:
    """The result of a run, empty without one."""
    folder = run.source.parent
    found = RunResult.read(folder)
    return found if found and weight_file(folder) == run.source else RunResult({})


def _unfinished(run: Run) -> str:
    """The progress of an interrupted training; "" if it is finished or unknown."""
    folder = run.source.parent
    metrics = folder / "metrics.jsonl"
    if (folder / RESULT_FILE).is_file() or not metrics.is_file():
        return ""
    rows = read_regular(metrics, largest=MAX_METRICS).splitlines() or [b"{}"]
    epoch, epochs = (json.loads(rows[-1]).get(name, 0) for name in ("epoch", "epochs"))
    return "" if epoch >= epochs else f"unfinished: {epoch} of {epochs} epochs"


def card_score(score: dict[str, Any]) -> CardScore:
    """The score in a card from that of a result, see `Score.as_dict`."""
    return CardScore(
        correct=score["correct"],
        count=score.get("count", 0),
        reestimated=score.get("bn") == "reestimate",
        mean_iou=score.get("mean_iou"),
    )


def _text(text: str) -> str | None:
    """Text of a user on one line, cut to the length of a card; None if it is empty."""
    line = " ".join(text.split())
    printable = "".join(character for character in line if character.isprintable())
    return shortened(printable, MAX_CARD_TEXT_LENGTH) or None


def data_in_words(dataset: str, note: str | None) -> str | None:
    """The title of a public data set and the note on its copy; None for other data."""
    entry = DATASETS.get(dataset)
    return None if entry is None or entry.counts is None else ": ".join(filter(None, (entry.title, note)))


def _method(recipe: Recipe, certificate: Certificate | None) -> str:
    """The quantizers of weights and inputs, and the optimizer."""
    model = recipe.model
    quantizers = {"weights": model.weight_quantizer, "inputs": model.input_quantizer}
    real = [end for end, kept in (("first", model.real_first), ("last", model.real_last)) if kept]
    parts = [
        ", ".join(f"{part} {short_name(name or 'real')}" for part, name in quantizers.items()),
        f"{' and '.join(real)} layer real" if real else "",
        f"optimizer {recipe.optimizer.name}",
        "" if recipe.permutation is None else "the order of its pixels became one of the first layer's weights",
        f"begun with the weights of {_net(recipe.init_from)}" if recipe.init_from else "",
        f"taught by {_net(recipe.teacher)}" if recipe.teacher else "",
        ROUNDED.format(certificate.activations)
        if certificate is not None and certificate.activations is not None
        else "one random draw of the weights"
        if certificate is not None and certificate.weights == "sample"
        else "",
    ]
    return f"{method_of(recipe) or 'mixed'}: {'; '.join(filter(None, parts))}"


def _net(name: str) -> str:
    """The name of a teacher or start; no paths."""
    return name if name in net_names() else "another trained net"


def _command(recipe: Recipe) -> tuple[str | None, bool]:
    """The command that repeats a training, and whether the recipe's summary and reference describe it.

    The command is a shipped recipe and the settings that differ; None for other recipes, and if it needs files of the
    user.
    """
    if recipe.name not in recipe_names():
        return None, True
    own_data = data_in_words(recipe.dataset, None) is None
    base = read_settings(recipe_path(recipe.name))
    changed = recipe.changed_from(build_recipe(base))
    described = {name for name, _, _ in changed} <= SAME_TRAINING
    flags = {name: flag_text(value) for name, _, value in changed}
    words = [word for name, text in flags.items() for word in (f"--{name.removesuffix('.name')}", text)]
    try:
        again = build_recipe(base, flags)
    except UsageError:
        return None, described
    own_files = {recipe.init_from, recipe.teacher, *recipe.model.code().values()} - {None, *net_names()}
    if own_data or own_files or recipe.changed_from(again) or any(map(_PATH.search, words)):
        return None, described
    return shlex.join(["onebit", "train", recipe.name, *words]), described
