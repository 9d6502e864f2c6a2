"""Every wrong command line is one line on stderr and exit status 2, and writes nothing."""

from __future__ import annotations

import importlib
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from onebit.cli.verbs import VERBS
from support.command_line import Onebit

OTHERS = """
trian
help pck
train mnist-fats
train digits-smoke mnist-fast
train digits-smoke --epochs
train digits-smoke --json=yes
train digits-smoke --optimizer.lrr 3
train digits-smoke --loss mse
train --dataset mnits
train --resume nowhere
train digits-smoke --resume run --overwrite
summary
summary nowhere
summary --model mlp
summary --model mlpp --input_shape 1,2,2
summary --model mlp --input_shape 1,x
summary --model nets.py:Net --dataset mnist
summary --model mlp --dataset mnist --method bn
evaluate nowhere
evaluate mnist-mlp --weights latent
evaluate mnist-mlp --dataset toy
evaluate mnist-mlp --seed -1
verify nowhere
verify nowhere.1bit
inspect nowhere
inspect .
pack nowhere -o net.1bit
pack mnist-mlp -o net.1bit
pack nowhere -o net.1bit --no-certify --activations 8
pack nowhere -o net.1bit --no-certify --weights sample
pack nowhere -o net.1bit --images 0
export mnist-mlp --to elsewhere -o net
export nowhere --to torch -o net.pth
predict nowhere.1bit a.png
summary mnist-mpl
report '' -o page
report . -o ''
verify mnist-mlp --source ''
verify mnist-mlp --source=
inspect ''
predict mnist-mlp a.png ''
predict mnist-mlp a.png --masks ''
evaluate mnist-mlp --split train
train ''
train digits-smoke --out ''
train digits-smoke --data=
train digits-smoke --method ''
predict . a.png
predict mnist-mlp nowhere.png
predict mnist-mlp a.png --masks masks
bench nowhere.1bit
bench mnist-mlp --rounds 0
bench mnist-mlp --seconds nan
report nowhere -o page
data nowhere
data mnist --data nowhere
"""
"""Empty words are what a shell makes of "$RUN" where nothing set it."""
TRAIN = """
nowhere.yaml
digits-smoke --batch_size 8000 --seeds 0-2
digits-smoke --model.weight_quantizer sgn
digits-smoke --model mpl
digits-smoke --optimizer adamm
digits-smoke --loss squared
--method bayes --dataset toy
digits-smoke --validation 8000
mnist-fast --epochs 0.0001
mnist-fast --model.widths [100,10]
mnist-fast --model.widths [784,5]
mnist-fast --input_size 14
mnist-fast --model vgg16 --model.widths null --input_size 8
mnist-fast --model unet --model.widths null
mnist-fast --model.stem cifar
mnist-fast --model.weight_quantizer ste_sign --model.value 0.5
mnist-fast --method bayesbinn --model.weight_options.temprature 1
mnist-fast --method bayesbinn --model.weight_options.temperature 0
mnist-fast --method bayesbinn --optimizer adam
mnist-fast --method ste --optimizer bop --model.weight_quantizer xnor
mnist-fast --optimizer.momentum 0.9
mnist-fast --optimizer.nesterov true
mnist-fast --method bayesbinn --optimizer.prior true
mnist-fast --optimizer.prior true
mnist-fast --schedule exponential --schedule.final_lr 0
mnist-fast --schedule.warmup 20
mnist-fast --device cuda:77
mnist-fast --label_smoothing 0.1 --loss hinge
mnist-fast --augmentation.crop_padding 2 --augmentation.min_area 0.5
mnist-fast --augmentation.rotate
mnist-fast --init_from nowhere.safetensors
mnist-fast --teacher=
mnist-fast --first_stage 1 --method real
mnist-fast --first_stage 1 --method bop
mnist-fast --continual.tasks 2 --continual.against [nothing]
mnist-fast --continual.tasks 2 --first_stage 1
--dataset folder --model resnet20 --model.widths [1,2]
--dataset imagenet --model resnet18 --model.stem middle
--dataset folder --model vgg16 --input_size 8
mnist-permuted --continual.against ["stee"]
mnist-permuted --continual.own ../a
mnist-permuted --continual.against ["bayesbinn"]
mnist-permuted --continual.against ["bop","react"] --model.dropout 0.5
mnist-permuted --augmentation.flip true
mnist-permuted --permutation 3
mnist-permuted --teacher nowhere
--dataset toy --model lenet
--dataset toy --model resnet20 --model.stem cifar
--dataset toy --model resnet20 --batch_size 5000
--dataset toy --model vgg_cifar10_binray
digits-smoke --method bnn --teacher resnet20-cifar10
digits-smoke --method bnn --teacher mnist-mlp --permutation 1
digits-smoke --method bnn --teacher mnist-mlp --whitening zca --augmentation.crop_padding 0
digits-smoke --method bnn --teacher mnist-mlp --label_smoothing 0.1
digits-smoke --method bnn --teacher ./mnist-mlp
--dataset toy --method ste --continual.tasks 2 --optimizer.data_scale 5
--dataset toy --method bayesbinn --init_from x --optimizer.latent_init 3
--dataset toy --optimizer.prox_freeze 0.5
--dataset toy --method real --model.weight_options {foo:1}
"""
"""Words after `onebit train`, which are refused before the data are read."""


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


@pytest.mark.parametrize("words", [*OTHERS.strip().splitlines(), *of_parsers()])
def test_wrong_commands_fail(onebit: Onebit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    monkeypatch.chdir(tmp_path)
    refused = onebit(*shlex.split(words))
    assert (refused.status, refused.out) == (2, "")
    assert refused.line.startswith("onebit: ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", TRAIN.strip().splitlines())
def test_wrong_recipes_fail_early(onebit: Onebit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    def read(*_: object, **__: object) -> None:
        raise AssertionError("the data were read")

    monkeypatch.setattr("onebit.runs.opening.load_dataset", read)
    refused = onebit("train", *words.split(), "--out", tmp_path / "run")
    assert (refused.status, refused.out) == (2, "")
    assert refused.err.splitlines()[-1].startswith("onebit: ")
    assert not any(wrong in refused.err for wrong in ("Traceback", "the data were read"))
    assert not list(tmp_path.iterdir())


def test_flags_may_stand_first_and_be_spelled_with_dashes_or_underscores(onebit: Onebit) -> None:
    lines = "digits-smoke --batch-size 50 --print-config", "--batch_size 50 --print_config digits-smoke"
    one, other = (onebit("train", *line.split()) for line in lines)
    assert (one.status, one.out) == (0, other.out)
    assert "name: digits-smoke" in one.out
    flags = (["--input-shape", "[1, 28, 28]"], ["--input_shape=[1, 28, 28]"])
    one, other = (onebit("summary", "--method", "bnn", "--model", "mlp", *flag) for flag in flags)
    assert (one.status, one.out) == (0, other.out)
