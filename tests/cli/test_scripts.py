"""Script names of other repositories: each is answered with a command that is understood."""

from __future__ import annotations

import shlex
from collections.abc import Callable

import pytest
from cli_support import Outcome

from onebit.__main__ import VERBS
from onebit.recipe import recipe_names
from onebit.recipe.translations.scripts import OTHERWISE, SCRIPTS

Onebit = Callable[..., Outcome]


def command(line: str) -> str:
    """The command in a refusal."""
    return line.partition("type: onebit ")[2].removesuffix(" (docs/coming-from.md)")


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("verb", [[], ["train"]])
def test_a_script_is_answered_with_the_command_to_type(onebit: Onebit, script: str, verb: list[str]) -> None:
    refused = onebit(*verb, f"{script}.py")
    assert refused.status == 2
    assert refused.line.startswith(f"onebit: {script}.py is a script of another repository; type: onebit ")
    said, what, *_ = shlex.split(command(refused.line))
    assert said in VERBS
    assert what in (*recipe_names(), "RUN", "CONFIG.json", "--loss", "--model")


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("main_binary.py --model alexnet_binary -b 64", "train --model alexnet_binary -b 64"),
        ("main_binary --model resnet_binary", "train --model resnet_binary"),
        ("main_binary_hinge.py --model vgg_cifar10_binary", "train --loss hinge --model vgg_cifar10_binary"),
        ("main_binary_hinge.py", "train --loss hinge --model vgg_cifar10_binary --dataset cifar10"),
        ("python main_binary.py --dataset cifar10", "train --dataset cifar10"),
        ("main_mnist.py", "train mnist-bnn-wide"),
        ("main_mnist.py --model MLPBinaryConnect --optim BayesBiNN", "train mnist-bayesbinn"),
        ("main_cifar10.py --optim=STE", "train cifar10-ste"),
        ("main_mnist.py --optim Adam", "train mnist-bayesbinn --method real --optimizer adam --optimizer.lr 1e-4"),
        ("main_cifar10.py --optim Adam", "train cifar10-bayesbinn --method real --optimizer adam --optimizer.lr 3e-4"),
        ("main_mnist_binary", "train mnist-bnn"),
        ("main_cl.py", "train mnist-permuted"),
        ("code/train_ste.py c.json wandb_on", "train c.json wandb_on"),
        ("test_cl.py c.json", "train c.json --task permuted-mnist"),
        ("eval_binarized.py 'my runs/a'", "evaluate 'my runs/a' --weights binary"),
    ],
)
def test_what_was_typed_after_a_script_is_kept(onebit: Onebit, typed: str, answer: str) -> None:
    assert command(onebit(*shlex.split(typed)).line) == command(onebit("train", *shlex.split(typed)).line) == answer


def test_scripts_of_one_name_are_told_apart() -> None:
    assert {name for name, _ in OTHERWISE} <= SCRIPTS.keys()


def test_other_words_are_no_scripts(onebit: Onebit) -> None:
    assert "unknown verb 'eval'; did you mean" in onebit("eval").line
    assert "unknown recipe 'mnist'" in onebit("train", "mnist").line
    assert "unknown verb 'mine.py'" in onebit("mine.py").line
