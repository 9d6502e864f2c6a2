"""Names of scripts, answered with the command to type."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import PurePath

from onebit.errors import UsageError

SCRIPTS = {
    "main_binary": "train {}",
    "main_binary_hinge": "train --loss hinge {}",
    "main_mnist": "train mnist-bnn-wide",
    "main_mnist_binary": "train mnist-bnn",
    "mnist": "train mnist-binaryconnect-stochastic",
    "mnist_standard": "train mnist-real --model.norm_momentum 0.1",
    "cifar10": "train cifar10-binaryconnect-stochastic",
    "main_cifar10": "train cifar10-bayesbinn",
    "main_cifar100": "train cifar100-bayesbinn",
    "main_permute_mnist_CL": "train mnist-permuted",
    "main_cl": "train mnist-permuted",
    "train_bayesbinn": "train {}",
    "train_ste": "train {}",
    "test_cl": "train {} --task permuted-mnist",
    "train_segmentation_bayesbinn": "train membrane-unet-bayesbinn",
    "train_segmentation_ste": "train membrane-unet-ste",
    "train_segmentation_normal": "train membrane-unet-real",
    "main": "train cifar10-resnet20-real",
    "eval": "evaluate {} --weights latent",
    "eval_binarized": "evaluate {} --weights binary",
    "load_binarized_example": "verify {}",
    "analyze_binary_weights": "inspect {}",
    "inspect_saved_model": "inspect {}",
    "save_binary_model": "pack {} -o net.1bit",
}
"""Script, without `.py` -> the `onebit` command in its place; {} is what was typed after the script."""
OTHERWISE = {
    # scripts of one name in several repositories, by a flag that tells them apart
    ("main_mnist", "--optim BayesBiNN"): "train mnist-bayesbinn",
    ("main_mnist", "--optim STE"): "train mnist-ste",
    ("main_cifar10", "--optim STE"): "train cifar10-ste",
    ("main_cifar100", "--optim STE"): "train cifar100-ste",
    ("main_mnist", "--optim Adam"): "train mnist-bayesbinn --method real --optimizer adam --optimizer.lr 1e-4",
    ("main_cifar10", "--optim Adam"): "train cifar10-bayesbinn --method real --optimizer adam --optimizer.lr 3e-4",
    ("main_cifar100", "--optim Adam"): "train cifar100-bayesbinn --method real --optimizer adam --optimizer.lr 3e-4",
}
WITHOUT_WORDS = {
    "main_binary": "train cifar10-resnet20-binaryconnect",
    "main_binary_hinge": "train --loss hinge --model vgg_cifar10_binary --dataset cifar10",
    "train_bayesbinn": "train CONFIG.json",
    "train_ste": "train CONFIG.json",
    "test_cl": "train CONFIG.json --task permuted-mnist",
}
"""Script without arguments -> the command; the other scripts take a run folder or a weight file."""


def refuse_script(word: str, rest: Sequence[str]) -> None:
    """Raise UsageError, with the command to type, if `word` is a script of another repository and `rest` follows it."""
    if word in ("python", "python3") and rest:
        word, *rest = rest
    script = PurePath(word).name
    name = script.removesuffix(".py")
    if name not in SCRIPTS or (script == name and "_" not in name):
        return
    flags = f" {' '.join(rest)} ".replace("=", " ")
    by_flag = [text for (other, flag), text in OTHERWISE.items() if other == name and f" {flag} " in flags]
    alone = WITHOUT_WORDS.get(name, SCRIPTS[name].replace("{}", "RUN"))
    command = by_flag[0] if by_flag else SCRIPTS[name] if rest else alone
    command = " ".join(command.replace("{}", shlex.join(rest)).split())
    raise UsageError(f"{script} is a script of another repository; type: onebit {command} (docs/coming-from.md)")
