"""Recipes: round trips, flags, and one clear line for whatever is wrong."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from onebit.common.fields import read
from onebit.data import DATASETS
from onebit.errors import UsageError
from onebit.models.settings import Model
from onebit.optim.settings import Optimizer
from onebit.recipe import (
    DESCRIPTIVE,
    Recipe,
    build_recipe,
    flag_names,
    flag_text,
    merge,
    read_settings,
    recipe_names,
    recipe_path,
)
from onebit.recipe.sections import foreign, own_types
from support.field_values import TYPES, owner_of, right_values


def value_of(recipe: Recipe, flag: str) -> Any:
    found: Any = recipe
    for part in flag.split("."):
        found = getattr(found, part, None)
    return found


def file_of(folder: Path, text: str, name: str = "recipe.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def some_value(flag: str) -> Any:
    """A value of a field that is not its default."""
    others = [1, 2, 0.5, True, (3, 2), (0.5, 0.5), ("ste",), {"clip_value": 2}, "mine"]
    for value in (*right_values(TYPES[flag]), *others):
        with contextlib.suppress(UsageError):
            if (found := read(value, TYPES[flag], name=flag)) not in (value_of(Recipe(), flag), None):
                return found
    raise AssertionError(flag)


def all_flags(**chosen: str) -> dict[str, str]:
    names = [flag for flag in flag_names() if flag not in ("augmentation.min_area", "model.name", "optimizer.name")]
    flags = {flag: flag_text(some_value(flag)) for flag in names} | chosen
    return {flag: text for flag, text in flags.items() if flag not in foreign(flags, flags)}


@pytest.mark.parametrize("flag", flag_names())
def test_a_flag_sets_its_field_and_nothing_else(flag: str) -> None:
    expected, default = some_value(flag), build_recipe({}, owner_of(flag))
    recipe = build_recipe({}, {**owner_of(flag), flag: flag_text(expected)})
    assert value_of(recipe, flag) == expected
    assert type(value_of(recipe, flag)) is type(expected)
    if flag in ("model.name", "optimizer.name"):  # which have options of their own
        return
    others = [other for other in flag_names() if other != flag]
    assert [value_of(recipe, other) for other in others] == [value_of(default, other) for other in others]


def test_flags_lie_over_the_file_which_lies_over_the_defaults() -> None:
    settings = {"epochs": 3, "optimizer": {"lr": 0.5, "name": "sgd"}}
    recipe = build_recipe(settings, {"optimizer.lr": "0.25"})
    assert (recipe.epochs, recipe.optimizer.lr, recipe.optimizer.name, recipe.batch_size) == (3, 0.25, "sgd", 100)


@pytest.mark.parametrize(
    ("model", "optimizer", "quantizer"),
    [("mlp", "adam", "sign"), ("resnet18", "bop", "prox"), ("unet", "bayesbinn", "xnor")],
)
def test_yaml_and_json_round_trips_of_a_recipe_made_by_flags(
    tmp_path: Path, model: str, optimizer: str, quantizer: str
) -> None:
    chosen = {"model.name": model, "optimizer.name": optimizer, "model.weight_quantizer": quantizer}
    recipe = build_recipe({}, all_flags(**chosen))
    again = build_recipe(read_settings(file_of(tmp_path, recipe.to_yaml())))
    assert again == recipe
    assert again.to_yaml() == recipe.to_yaml()
    text = json.dumps(dataclasses.asdict(recipe))
    assert build_recipe(read_settings(file_of(tmp_path, text, "recipe.json"))) == recipe


def test_the_written_recipe_is_complete() -> None:
    written = yaml.safe_load(build_recipe({}).to_yaml())

    def names(settings: dict[str, Any], prefix: str = "") -> list[str]:
        return [
            name
            for key, value in settings.items()
            for name in (names(value, f"{prefix}{key}.") if isinstance(value, dict) else [prefix + key])
        ]

    others = {f"{part}.{name}" for part, kind, chosen in (("model", Model, "mlp"), ("optimizer", Optimizer, "adam"))
              for name, (_, _, entries) in own_types(kind).items() if chosen not in entries}  # fmt: skip
    assert {"optimizer.gamma", "model.stem"} < others
    expected = [name for name in flag_names() if name not in others]
    assert names(written) == sorted(expected, key=lambda name: name not in DESCRIPTIVE)


@pytest.mark.parametrize("number", ["1e-3", "1.0e-3", "0.001", ".001", "1E-3"])
def test_every_way_to_write_a_number_is_a_number(tmp_path: Path, number: str) -> None:
    """YAML 1.1 takes 1e-3 for text."""
    path = file_of(tmp_path, f"optimizer: {{lr: {number}}}")
    assert build_recipe(read_settings(path)).optimizer.lr == 0.001


def test_changes_are_told_also_where_one_recipe_has_options_and_the_other_none() -> None:
    with_options = build_recipe({"model": {"weight_options": {"clip_value": 2}}, "seed": 1})
    assert with_options.changed_from(build_recipe({"threads": 2})) == [
        ("seed", 0, 1),
        ("model.weight_options.clip_value", None, 2),
    ]
    assert build_recipe({}).changed_from(with_options)[-1] == ("model.weight_options.clip_value", 2, None)


def test_merge_is_deep_and_leaves_its_arguments_alone() -> None:
    base, over = {"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"c": 5}, "e": {"f": 6}}
    assert merge(base, over) == {"a": 1, "b": {"c": 5, "d": 3}, "e": {"f": 6}}
    assert base == {"a": 1, "b": {"c": 2, "d": 3}}
    assert merge({"b": {"c": 1}}, {"b": None}) == {"b": None}


@pytest.mark.parametrize(
    ("text", "noun"),
    [
        ("optimizer: {lrs: 1}", "optimizer.lrs; did you mean 'lr'"),
        ("1: 2", "field 1"),
        ("optimizer: adam", "optimizer"),
        ("", "mapping"),
        ("- seed", "mapping"),
        ("seed: [1,\nb: }", "line 2"),
        ("name: !!python/object/apply:os.getcwd []", "line 1"),
        ("seed: three", "seed"),
        ("epochs: .nan", "epochs"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, text: str, noun: str) -> None:
    with pytest.raises(UsageError, match=noun):
        build_recipe(read_settings(file_of(tmp_path, text)))


@pytest.mark.parametrize("name", ["mnist-binaryconect", "folder/none.yaml", "methods", "", "x" * 5000, "a\0b"])
def test_a_recipe_that_is_nowhere(name: str) -> None:
    with pytest.raises(UsageError, match="recipe"):
        recipe_path(name)


def test_a_recipe_is_a_name_a_readable_file_or_a_run_folder(tmp_path: Path) -> None:
    path = file_of(tmp_path, "seed: 1")
    assert recipe_path(str(path)) == recipe_path(str(tmp_path)) == path
    assert recipe_path("mnist-real").name == "mnist-real.yaml"
    (tmp_path / "latin.yaml").write_bytes(b"name: \xff\xfe")
    for wrong in (tmp_path / "latin.yaml", tmp_path / "none.yaml", tmp_path):
        with pytest.raises((UsageError, OSError), match=wrong.name):
            read_settings(wrong)


def test_a_recipe_that_extends_another_has_its_settings_and_not_its_words(tmp_path: Path) -> None:
    base = build_recipe(read_settings(recipe_path("mnist-fast")))
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nextends: mnist-fast\nmodel: {widths: [784, 32, 10]}\nschedule: {warmup: 0.5}\n")
    own = build_recipe(read_settings(path))
    assert (own.name, own.summary, own.reference, own.measured) == ("mine", "", "", "")
    assert own.model == dataclasses.replace(base.model, widths=(784, 32, 10))
    assert own.schedule == dataclasses.replace(base.schedule, warmup=0.5)
    assert own.optimizer == base.optimizer


@pytest.mark.parametrize("name", recipe_names())
def test_a_shipped_recipe_is_described_and_survives_its_round_trip(tmp_path: Path, name: str) -> None:
    recipe = build_recipe(read_settings(recipe_path(name)))
    assert recipe.name == name
    assert len(recipe.summary) > 10
    assert re.search(r"arXiv:\d{4}\.\d{5}|\bmnist-binaryconnect\b", recipe.reference), recipe.reference
    assert recipe.measured
    assert recipe.dataset in DATASETS
    assert build_recipe(read_settings(file_of(tmp_path, recipe.to_yaml()))) == recipe
    said = re.search(r"real (first and last|first|last) layer", recipe.summary)
    binary = recipe.model.weight_quantizer is not None
    ends = [end for end in ("first", "last") if binary and getattr(recipe.model, f"real_{end}")]
    assert (said[1] if said else "") == " and ".join(ends)


def test_recipes_answer_without_torch() -> None:
    code = (
        "import sys; from onebit.recipe import build_recipe, read_settings, recipe_path;"
        "build_recipe(read_settings(recipe_path('mnist-real')), {'seed': '3'});"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
