"""What holds for every verb: help, keys of `--json`, refusals in one line, names of nets, and what is not imported."""

from __future__ import annotations

import importlib
import json
import os
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import onebit as onebit_package
from onebit import __version__
from onebit.__main__ import VERBS, main
from onebit.nets import FOLDER
from support.command_line import Onebit, loaded_modules

NAME = "mnist-mlp"


# --------------------------------------------------------------------------------------------------------------- help
def test_help_names_every_verb(onebit: Onebit, capsys: pytest.CaptureFixture[str]) -> None:
    done = onebit("--help")
    assert (done.status, onebit("help").out) == (0, done.out)
    assert all(verb in done.out for verb in VERBS)
    assert onebit("--version").out == f"onebit {__version__}\n"
    assert onebit("help", "train").out == onebit("train", "--help").out
    with pytest.raises(SystemExit, match="0"):
        onebit("help", "pack")
    assert capsys.readouterr().out.startswith("usage: onebit pack ")


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_every_verb_is_an_answer(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with suppress(SystemExit):
        assert main([verb, "--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: onebit ")


# --------------------------------------------------------------------------------------------------------------- JSON
SCORES = (
    "accuracy bn class_accuracy class_f1 classes confusion correct count dataset directory ece entropy error f1 loss "
    "loss_name note split weights"
)
KEYS = {
    "train --resume RUN": "batch_per_process binary_weights chosen_by chosen_epoch classes dataset device epochs "
    "folder last_epoch note packed_bytes parameters precision processes recipe seconds seed sha256 test threads torch "
    "validation_error weights",
    "evaluate RUN": SCORES,
    "evaluate NET": SCORES,
    "inspect RUN": "facts file kind layers tensors total verdict warnings",
    "inspect NET": "facts file kind layers tensors total verdict warnings",
    "summary RUN": "layers net total warnings",
    "verify NET": "dataset directory note ok steps",
    "pack RUN -o x.1bit": "bytes certificate compared file promise ratio_to_float32 real_parameters weight_bits",
    "predict NET a.png": "failed net predictions",
    "export NET --to torch -o x.pth": "bytes checked comparison file files report",
    "report RUN -o page": "files rows",
    "bench NET --rounds 1 --seconds 0.001 --batches 1": "net rounds rows threads",
    "list": "kinds",
    "list nets": "nets",
    "data mnist-sample": "dataset dir files note",
}
"""Command -> the keys of the object that `--json` prints."""


@pytest.mark.usefixtures("no_ink")
@pytest.mark.parametrize("words", KEYS)
def test_json_is_one_object(onebit: Onebit, run_folder: Path, packed_file: Path, here: Path, words: str) -> None:
    Image.new("L", (28, 28)).save("a.png")
    files = {"RUN": run_folder, "NET": packed_file}
    done = onebit(*(files.get(word, word) for word in words.split()), "--json")
    assert (done.status, sorted(done.json)) == (0, sorted(KEYS[words].split())), done.err


# -------------------------------------------------------------------------------------------------------------- wrong
WRONG = """
trian
help pck
train mnist-fats
train mnist-fats --help
train digits-smoke mnist-fast
train digits-smoke --epochs
train digits-smoke --json=yes
train digits-smoke --optimizer.lrr 3
train digits-smoke --loss mse
train --dataset mnits
train --resume nowhere
train --resume --out nowhere
train --resume nowhere/last.ckpt
train --resume nowhere --out elsewhere
train digits-smoke --resume run --overwrite
train ''
train digits-smoke --out ''
train digits-smoke --data=
train digits-smoke --method ''
train mnist-fast --model mpl --print-config
train mnist-fast --loss squared --print-config
train mnist-fast --dataset mnits --print-config
train --dataset toy --optimizer Adamm
train --dataset toy --gpus 0,1
train --dataset toy -a resnet --model_config "{'depth': '19x'}"
train digits-smoke --patience 0
train digits-smoke --patience 2 --validation 0
summary
summary nowhere
summary --model mlp
summary --model mlpp --input_shape 1,2,2
summary --model mlp --input_shape 1,x
summary --model nets.py:Net --dataset mnist
summary --model mlp --dataset mnist --method bn
summary mnist-mpl
evaluate nowhere
evaluate mnist-mlp --weights latent
evaluate mnist-mlp --dataset toy
evaluate mnist-mlp --seed -1
evaluate mnist-mlp --split train
evaluate mnist-mlp --threads 0
evaluate mnist-mlp --threads 5000
verify nowhere
verify nowhere.1bit
verify mnist-mlp --source ''
verify mnist-mlp --source=
inspect nowhere
inspect .
inspect ''
pack nowhere -o net.1bit
pack mnist-mlp -o net.1bit
pack nowhere -o net.1bit --no-certify --activations 8
pack nowhere -o net.1bit --no-certify --weights sample
pack nowhere -o net.1bit --images 0
export mnist-mlp --to elsewhere -o net
export nowhere --to torch -o net.pth
predict nowhere.1bit a.png
predict mnist-mlp a.png ''
predict mnist-mlp a.png --masks ''
predict . a.png
predict mnist-mlp nowhere.png
predict mnist-mlp a.png --masks masks
bench nowhere.1bit
bench mnist-mlp --rounds 0
bench mnist-mlp --seconds nan
report nowhere -o page
report '' -o page
report . -o ''
data nowhere
data mnist --data nowhere
"""
"""Empty words are what a shell makes of "$RUN" where nothing set it."""


def of_parsers() -> Iterator[str]:
    """What the parsers of the verbs refuse: nothing to do, unknown and half-written options, and wrong choices."""
    for verb in [verb for verb in VERBS if verb != "train"]:
        actions = importlib.import_module(f"onebit.cli.{verb}_verb").parser()._actions
        positional = [action for action in actions if not action.option_strings]
        needed = ["x" if action.choices is None else next(iter(action.choices)) for action in positional]
        start = " ".join([verb, *needed])
        yield f"{start} --no-such-option"
        if any(action.required for action in actions):
            yield verb
        for action in actions:
            if action.option_strings and action.nargs != 0:
                yield f"{start} {action.option_strings[-1]}"
            if action.choices is not None:
                yield " ".join(
                    filter(None, [start if action.option_strings else verb, *action.option_strings[-1:], "!"])
                )


@pytest.mark.parametrize("words", [*WRONG.strip().splitlines(), *of_parsers()])
def test_wrong_commands_are_one_line_and_write_nothing(onebit: Onebit, here: Path, words: str) -> None:
    refused = onebit(*shlex.split(words))
    assert (refused.status, refused.out) == (2, "")
    assert refused.line.startswith("onebit: ")
    assert not list(here.iterdir())


def test_flags_may_stand_first_and_be_spelled_with_dashes_or_underscores(onebit: Onebit) -> None:
    lines = "digits-smoke --batch-size 50 --print-config", "--batch_size 50 --print_config digits-smoke"
    one, other = (onebit("train", *line.split()) for line in lines)
    assert (one.status, one.out) == (0, other.out)
    flags = (["--input-shape", "[1, 28, 28]"], ["--input_shape=[1, 28, 28]"])
    one, other = (onebit("summary", "--method", "bnn", "--model", "mlp", *flag) for flag in flags)
    assert (one.status, one.out) == (0, other.out)


# -------------------------------------------------------------------------------------------------- names and threads
@pytest.mark.parametrize(
    "words",
    [
        "predict NET two.png",
        "inspect NET",
        "summary NET",
        "evaluate NET --dataset mnist-sample",
        "export NET --to torch -o x.pth",
        "verify NET",
        "bench NET --rounds 1 --seconds 0.001 --batches 1",
    ],
)
def test_a_verb_says_of_a_name_what_it_says_of_the_file(onebit: Onebit, here: Path, words: str) -> None:
    shutil.copy(FOLDER / f"{NAME}.1bit", "copy.1bit")
    Image.fromarray(np.tri(28, dtype=np.uint8) * 200).save("two.png")
    named, copied = (onebit(*words.replace("NET", net).split()) for net in (NAME, "copy.1bit"))
    assert named.status == copied.status
    assert words.startswith("bench") or named.out.replace(NAME, "copy.1bit") == copied.out
    if not words.startswith("verify"):  # needs the whole test set
        assert named.status == 0
    assert str(FOLDER) not in named.out + named.err


def test_an_export_may_have_the_name_of_its_net(onebit: Onebit, here: Path) -> None:
    assert onebit("export", NAME, "--to", "c", "-o", NAME, "--images", "1").status == 0
    assert (here / NAME / "net.h").is_file()
    shutil.copy(FOLDER / f"{NAME}.1bit", "net")
    for verb in ("inspect", "evaluate"):  # a packed net of another suffix is to be renamed
        done = onebit(verb, "net")
        assert (done.status, ".1bit" in done.line) == (2, True)


def test_threads_override_the_environment(
    onebit: Onebit, run_folder: Path, packed_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    counts: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", counts.append)
    monkeypatch.setenv("ONEBIT_THREADS", "none")
    assert "got 'none'" in onebit("evaluate", run_folder).line
    for verb, file in (("evaluate", run_folder), ("evaluate", packed_file), ("verify", packed_file)):
        monkeypatch.setenv("ONEBIT_THREADS", "none")
        assert onebit(verb, file, "--threads", "2", "--json").status == 0
    assert set(counts) == {2}


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "5"}, "5"), ({"OMP_WAIT_POLICY": "active"}, None), ({"torch": "loaded"}, None)],
)
def test_waiting_threads_of_torch_sleep_soon(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], expected: str | None
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    if "torch" not in given:
        monkeypatch.delitem(sys.modules, "torch", raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    runpy.run_path(str(onebit_package.__file__))
    assert os.environ.get("GOMP_SPINCOUNT") == expected


# ------------------------------------------------------------------------------------------------------------ imports
def test_what_needs_no_torch_loads_none(here: Path) -> None:
    assert not loaded_modules(["--help"]) & {"torch", "numpy", "yaml", "rich"}
    Image.new("L", (28, 28)).save("a.png")
    lines = "list recipes", "list nets", "completion bash", "train digits-smoke --epoch 3"
    lines += "train mnist-fast --print-config", "train mnist-fast --print-config --loss hings"
    lines += f"predict {NAME} a.png", f"inspect {NAME}", f"summary {NAME}", f"evaluate {NAME} --dataset mnist-sample"
    assert "torch" not in loaded_modules(*map(str.split, lines), *([verb, "--help"] for verb in VERBS))


EXTRAS = ("torch", "yaml", "pooch", "rich", "matplotlib")
WITHOUT_EXTRAS = f"""
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
sys.modules |= dict.fromkeys({EXTRAS!r})
from onebit.__main__ import main
outcomes = []
for words in json.loads(sys.argv[1]):
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        try:
            status = main(words)
        except SystemExit as left:
            status = left.code
    outcomes.append((status, out.getvalue(), err.getvalue()))
print(json.dumps(outcomes))
"""
NEEDS = {
    "list recipes": "yaml",
    "list methods": "yaml",
    "list models": "torch",
    "train mnist-fast": "yaml",
    "train mnist-fast --help": "yaml",
    "pack run -o net.1bit": "torch",
}
"""Command -> the module that it lacks in an installation without the extra `train`."""
WORKS = f"""
--help
predict {NAME} a.png
inspect {NAME}
evaluate {NAME} --dataset mnist-sample
bench {NAME} --rounds 1 --batches 1 --seconds 0.001
data mnist-sample
list
list datasets
list exports
train --help
completion bash
"""


def test_what_needs_the_extra_train_says_so_in_one_line_and_all_else_works(here: Path) -> None:
    Image.new("L", (28, 28)).save("a.png")
    lines = [*WORKS.strip().splitlines(), *NEEDS]
    asked = [sys.executable, "-c", WITHOUT_EXTRAS, json.dumps([line.split() for line in lines])]
    done = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=120)
    for line, (status, out, err) in zip(lines, json.loads(done.stdout), strict=True):
        if line in NEEDS:
            needed = f"onebit: `onebit {line.split()[0]}` needs {NEEDS[line]}: pip install 'onebit[train]'\n"
            assert (status, out, err) == (2, "", needed)
        else:
            assert (status, bool(out)) == (0, True), (line, err)


def test_public_names_that_need_the_extra_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(onebit_package._HOME, "pack", "module_of_an_extra")
    monkeypatch.delitem(vars(onebit_package), "pack", raising=False)
    with pytest.raises(ModuleNotFoundError, match=r"onebit\.pack needs .*onebit\[train\]"):
        _ = onebit_package.pack
