"""The packed nets that come with onebit."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import onebit
from onebit.errors import FormatError, UsageError
from onebit.nets import FOLDER, is_packed, net_names, net_path, not_a_net

BLANK = np.zeros((1, 1, 28, 28), np.uint8)


def test_a_net_is_loaded_and_run_by_its_name() -> None:
    net = onebit.load_packed("mnist-mlp")
    assert onebit.packed.dumps(net) == (FOLDER / "mnist-mlp.1bit").read_bytes()
    assert onebit.run("mnist-mlp", BLANK).tolist() == onebit.run(net, BLANK).tolist()


def test_a_word_is_a_name_and_a_path_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(FOLDER / "mnist-mlp.1bit", "other.1bit")
    shutil.copy(FOLDER / "mnist-mlp.1bit", "word")
    for path in ("other.1bit", "./mnist-mlp", "mnist-mlp.1bit", "word", Path("mnist-mlp")):
        assert net_path(path) == Path(path)
    assert net_path("mnist-mlp") == FOLDER / "mnist-mlp.1bit"
    means = {net: is_packed(net) for net in ("mnist-mlp", "gone.1bit", "word", Path("mnist-mlp"))}
    assert list(means.values()) == [True, True, False, False]
    assert onebit.load("word").name == onebit.load("other.1bit").name == "mnist-fast"


def test_a_name_with_two_meanings_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mnist-mlp").mkdir()  # what `onebit export mnist-mlp --to c -o mnist-mlp` writes
    assert onebit.load("mnist-mlp").name == "mnist-fast"
    Path("mnist-mlp", "recipe.yaml").touch()
    with pytest.raises(UsageError, match=r"^mnist-mlp is a net .* also a run folder here: write \./mnist-mlp"):
        onebit.load("mnist-mlp")
    shutil.rmtree("mnist-mlp")
    shutil.copy(FOLDER / "mnist-mlp.1bit", "mnist-mlp")
    with pytest.raises(UsageError, match=r"also a file here: write \./mnist-mlp"):
        onebit.load("mnist-mlp")
    assert onebit.load("./mnist-mlp").name == onebit.load(Path("mnist-mlp")).name == "mnist-fast"


@pytest.mark.parametrize(
    ("missing", "hint"),
    [
        ("mnist-mpl", ", and no net that comes with onebit has this name; did you mean 'mnist-mlp'?"),
        ("mnist-mlp.1bit", ", and no net that comes with onebit has this name; did you mean 'mnist-mlp'?"),
        ("nowhere", ", and no net that comes with onebit has this name; `onebit list nets` lists them"),
        ("nowhere.1bit", ""),
        ("mnist-mlp.pth", ""),
        ("runs/mnist-mlp", ""),
    ],
)
def test_an_unknown_name_is_one_line_with_the_nearest_one(missing: str, hint: str) -> None:
    assert not_a_net(missing) == hint
    with pytest.raises(FormatError) as info:
        onebit.load(missing)
    assert str(info.value) == f"cannot read {missing!r}: No such file or directory{hint}"


def test_all_nets_together_are_small() -> None:
    assert sum(net_path(name).stat().st_size for name in net_names()) <= 1_500_000
