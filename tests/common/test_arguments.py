"""What a newcomer gives to the public functions by mistake: one line that names it and the way out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from covering import DEEPER, covering
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import onebit
from onebit.common.arguments import check_number, described
from onebit.data import Split
from onebit.errors import DataError, FormatError, OnebitError, UsageError, WrongTypeError
from onebit.evaluation.model_inputs import try_model
from onebit.models import MODELS, create_model, option_names
from onebit.recipe import build_recipe
from onebit.runs.model import resolve_device
from onebit.runtime import load, run

DATA = onebit.load_dataset("toy")
IMAGES, LABELS = DATA.test.images, DATA.test.labels
LOADER = DataLoader(TensorDataset(torch.from_numpy(IMAGES), torch.from_numpy(LABELS)), batch_size=64)


def make_model() -> nn.Module:
    return create_model("mlp", widths=(64, 8, 4), input_shape=(1, 8, 8)).eval()


MODEL = make_model()
PACKED = onebit.pack(MODEL)
LAYER = nn.Sequential(onebit.BinaryLinear(4, 2))


def adam(model: nn.Module = MODEL) -> torch.optim.Optimizer:
    return onebit.clip_latents_(torch.optim.Adam(onebit.latent_groups(model, lr=1e-3)))


def fit(model: Any = MODEL, data: Any = DATA, optimizer: Any = None, **settings: Any) -> None:
    optimizer = adam(model if isinstance(model, nn.Module) else MODEL) if optimizer is None else optimizer
    onebit.fit(model, data, optimizer, **{"epochs": 1, **settings})


MISTAKES: dict[str, tuple[Callable[[], Any], type[OnebitError], tuple[str, ...]]] = {
    "run of a missing path": (lambda: run("net.1bit", IMAGES), FormatError, ("cannot read 'net.1bit'", "No such file")),
    "run of a list of paths": (lambda: run([Path("net.1bit")], IMAGES), WrongTypeError, ("got list", "packed net")),
    "run of a model": (lambda: run(MODEL, IMAGES), WrongTypeError, ("got MLP", "onebit.pack(model)")),
    "run on a list": (lambda: run(PACKED, list(IMAGES)), UsageError, ("list", "uint8 (N, 1, 8, 8)", "numpy.stack")),
    "run on a Split": (lambda: run(PACKED, DATA.test), UsageError, ("Split", "split.images")),
    "run on floats": (lambda: run(PACKED, IMAGES / 255), UsageError, ("float64 (512, 1, 8, 8)", "uint8")),
    "save a model": (lambda: onebit.save(MODEL, "net.1bit"), WrongTypeError, ("got MLP", "onebit.pack(model)")),
    "save, the wrong way round": (lambda: onebit.save("net.1bit", PACKED), WrongTypeError, ("expected a packed net",)),
    "save to nothing": (lambda: onebit.save(PACKED, None), WrongTypeError, ("path: got None", ".1bit")),
    "save without the suffix": (lambda: onebit.save(PACKED, "mnist-mlp"), UsageError, ("mnist-mlp: ", "ends in .1bit")),
    "save with another suffix": (lambda: onebit.save(PACKED, Path("x.npz")), UsageError, ("x.npz: ", "ends in .1bit")),
    "save to an empty path": (lambda: onebit.save(PACKED, ""), UsageError, ("path: got ''", ".1bit")),
    "load an empty path": (lambda: load(""), UsageError, ("path: got ''", ".1bit")),
    "run in a fraction of a thread": (lambda: run(PACKED, IMAGES, threads=1.5), UsageError, ("threads", "1.5")),
    "run in a flag of threads": (lambda: run(PACKED, IMAGES, threads=True), UsageError, ("threads", "True")),
    "run in a text of threads": (lambda: run(PACKED, IMAGES, threads="2"), UsageError, ("threads", "'2'")),
    "run in wrong threads without the library": (
        lambda: run(PACKED, IMAGES, threads=0, executor="reference"), UsageError, ("threads", "0"),
    ),
    "a net with a text as card": (lambda: replace(PACKED, card="x"), WrongTypeError, ("card: got 'x'", "Card")),
    "a net with a text as certificate": (
        lambda: replace(PACKED, certificate="x"), WrongTypeError, ("certificate: got 'x'", "Certificate"),
    ),
    "a net without an input": (lambda: replace(PACKED, input=None), WrongTypeError, ("input: got None", "InputSpec")),
    "load an array": (lambda: load(IMAGES), WrongTypeError, ("array uint8 (512, 1, 8, 8)", "path of a .1bit file")),
    "load bytes": (lambda: load(b"12345678"), WrongTypeError, ("bytes", "onebit.packed.loads")),
    "load a number": (lambda: load(3), WrongTypeError, ("path: got 3",)),
    "PackedModule of an array": (lambda: onebit.PackedModule(IMAGES), WrongTypeError, ("array uint8", "a packed net")),
    "PackedModule of a model": (lambda: onebit.PackedModule(MODEL), WrongTypeError, ("MLP", "onebit.pack(model)")),
    "PackedModule on an array": (
        lambda: onebit.PackedModule(PACKED)(IMAGES), WrongTypeError, ("array uint8", "torch.from_numpy"),
    ),
    "fit with other lengths": (lambda: fit(data=(IMAGES, LABELS[:9])), DataError, ("512 inputs", "9 targets")),
    "fit with images alone": (lambda: fit(data=IMAGES), UsageError, ("without targets", "pair (inputs, targets)")),
    "fit with NaN": (
        lambda: fit(nn.Sequential(nn.Flatten(), onebit.BinaryLinear(64, 4)), (IMAGES * np.nan, LABELS)),
        DataError,
        ("NaN",),
    ),
    "fit with a validation set of inputs": (
        lambda: fit(validation=IMAGES), UsageError, ("validation: got inputs without targets",),
    ),
    "fit of a name": (lambda: fit(model="mlp"), WrongTypeError, ("model: got 'mlp'", "onebit.create_model")),
    "fit with the name of an optimizer": (lambda: fit(optimizer="adam"), WrongTypeError, ("'adam'", "latent_groups")),
    "fit with a class": (lambda: fit(optimizer=torch.optim.Adam), WrongTypeError, ("the class Adam", "latent_groups")),
    "fit without a seed": (lambda: fit(seed=None), WrongTypeError, ("seed: got None",)),
    "fit with an unknown loss": (lambda: fit(loss="l1"), UsageError, ("unknown loss 'l1'", "cross_entropy", "hinge")),
    "evaluate on a loader without targets": (
        lambda: onebit.evaluate(MODEL, DataLoader(torch.from_numpy(IMAGES), 64)), DataError, ("no targets",),
    ),
    "evaluate on images": (lambda: onebit.evaluate(MODEL, IMAGES), DataError, ("no targets", "(inputs, targets)")),
    "evaluate a packed net": (lambda: onebit.evaluate(PACKED, DATA.test), WrongTypeError, ("PackedModule(net)",)),
    "evaluate without a mode": (
        lambda: onebit.evaluate(MODEL, DATA.test, weights=None), UsageError, ("weights must be latent, binary", "None"),
    ),
    "an option of torchvision": (
        lambda: create_model("resnet20", num_classes=10), UsageError, ("did you mean 'classes'?", "bireal"),
    ),
    "an option of no model": (lambda: create_model("mlp", colour=1), UsageError, ("'colour'; its options: ", "widths")),
    "a number of widths": (lambda: create_model("mlp", widths=784), UsageError, ("(784, 512, 10), got 784",)),
    "widths as text": (lambda: create_model("mlp", widths="784,10"), UsageError, ("whole numbers", "'784,10'")),
    "classes as text": (lambda: create_model("resnet20", classes="10"), WrongTypeError, ("classes: got '10'",)),
    "no model": (lambda: create_model(None), WrongTypeError, ("name: got None", "name of a model")),
    "two sides of an image": (lambda: create_model("resnet20", input_shape=(32, 32)), UsageError, ("got (32, 32)",)),
    "one side of an image": (lambda: create_model("resnet20", input_shape=32), UsageError, ("positive", "got 32")),
    "a number as quantizer": (lambda: create_model("mlp", weight_quantizer=1), UsageError, ("got 1", "ste_sign")),
    "clip without latent groups": (
        lambda: onebit.clip_latents_(torch.optim.Adam(MODEL.parameters())),
        UsageError,
        ("nothing would be clipped", "onebit.latent_groups(model, lr=...)"),
    ),
    "clip of a model": (lambda: onebit.clip_latents_(MODEL), WrongTypeError, ("optimizer: got MLP", "latent_groups")),
    "clip of groups": (
        lambda: onebit.clip_latents_(onebit.latent_groups(MODEL, lr=1e-3)), WrongTypeError, ("got list", "torch.optim"),
    ),
    "groups of parameters": (
        lambda: onebit.latent_groups(MODEL.parameters(), lr=1e-3), WrongTypeError, ("generator", "the model itself"),
    ),
    "groups with a rate as text": (lambda: onebit.latent_groups(MODEL, lr="1e-3"), WrongTypeError, ("lr: got '1e-3'",)),
    "groups with a negative rate": (lambda: onebit.latent_groups(MODEL, lr=-1), UsageError, ("lr must be 0 or more",)),
    "no data set": (lambda: onebit.load_dataset(None), WrongTypeError, ("name: got None",)),
    "a share held out": (lambda: onebit.load_dataset("toy", validation=0.1), WrongTypeError, ("validation: got 0.1",)),
    "a number as folder": (lambda: onebit.load_dataset("mnist", directory=3), WrongTypeError, ("directory: got 3",)),
    "a split of lists": (lambda: Split([1, 2], [0, 1]), WrongTypeError, ("images: got list", "numpy.asarray(images)")),
    "a split with labels as floats": (lambda: Split(IMAGES, LABELS * 1.0), DataError, ("labels: got float64", "int64")),
    "a split of floats": (lambda: Split(IMAGES / 255, LABELS), DataError, ("images: got float64", "0..255")),
    "a data set of arrays": (
        lambda: onebit.Dataset("own", IMAGES, IMAGES, IMAGES, tuple("abcd")), WrongTypeError, ("train: got array uint8",
        "onebit.Dataset.from_arrays"),
    ),
    "pack a name": (lambda: onebit.pack("mlp"), WrongTypeError, ("'mlp'", "onebit.create_model")),
    "pack with a loader": (lambda: onebit.pack(LAYER, LOADER), WrongTypeError, ("DataLoader", "next(iter(loader))[0]")),
    "pack with a pair": (lambda: onebit.pack(LAYER, (IMAGES, LABELS)), WrongTypeError, ("tuple", "example[0]")),
    "pack with a list": (lambda: onebit.pack(LAYER, list(IMAGES)), WrongTypeError, ("list", "torch.stack(example)")),
    "pack with a split": (lambda: onebit.pack(LAYER, DATA.test), WrongTypeError, ("Split", "split.images")),
    "pack with a data set": (lambda: onebit.pack(LAYER, DATA), WrongTypeError, ("got Dataset", "data.test.images")),
    "pack with a torch data set": (
        lambda: onebit.pack(LAYER, TensorDataset(torch.ones(3, 4))), WrongTypeError, ("TensorDataset", "dataset[0][0]"),
    ),
    "pack with a name of data": (lambda: onebit.pack(LAYER, "toy"), WrongTypeError, ("'toy'", "load_dataset(name)")),
    "pack with one sample": (lambda: onebit.pack(LAYER, torch.ones(4)), UsageError, ("float32 (4,)", "(N, …)")),
    "pack with no samples": (lambda: onebit.pack(LAYER, torch.ones(0, 4)), UsageError, ("(0, 4)", "N of 1 or more")),
    "pack with whole numbers": (
        lambda: onebit.pack(LAYER, torch.ones(3, 4, dtype=torch.long)), UsageError, ("int64 (3, 4)", "float32"),
    ),
    "pack with doubles": (lambda: onebit.pack(LAYER, np.ones((3, 4))), UsageError, ("float64", "x.astype('float32')")),
    "pack with a mean and a deviation": (
        lambda: onebit.pack(LAYER, torch.ones(3, 4), preprocess=(0.13, 0.31)),
        WrongTypeError, ("preprocess: got tuple", "onebit.Normalize(mean, std)"),
    ),
    "pack with a function": (
        lambda: onebit.pack(LAYER, torch.ones(3, 4), preprocess=lambda x: x / 255),
        WrongTypeError, ("preprocess: got function", "onebit.Normalize(mean, std)"),
    ),
    "pack with the class Normalize": (
        lambda: onebit.pack(LAYER, torch.ones(3, 4), preprocess=onebit.Normalize),
        WrongTypeError, ("preprocess: got the class Normalize",),
    ),
    "pack with other data": (
        lambda: onebit.pack(LAYER, torch.ones(3, 4), data=torch.ones(3, 5)), UsageError, ("float32 (3, 5)", "(N, 4)"),
    ),
    "pack with data that hold NaN": (
        lambda: onebit.pack(LAYER, torch.ones(3, 4), data=torch.ones(3, 4) * np.nan), DataError, ("NaN",),
    ),
    "pack compared with fewer samples": (
        lambda: onebit.pack(LAYER, torch.ones(3, 4), data=torch.ones(3, 4), trained=torch.ones(2, 2)),
        UsageError, ("got 2 logits of the model as trained for 3",),
    ),
    "pack with targets that are not labels": (
        lambda: onebit.pack(LAYER, torch.ones(3, 4), data=(torch.ones(3, 4), torch.tensor([0, 1, 2]))),
        UsageError, ("label 2", "expected 0 to 1"),
    ),
    "more means than deviations": (
        lambda: onebit.Normalize([0.1, 0.2], [1.0]), UsageError, ("2 means and 1 stds", "one of each per channel"),
    ),
    "pack a packed net": (lambda: onebit.pack(PACKED), WrongTypeError, ("PackedNet", "torch module")),
    "verify with a path": (lambda: onebit.verify(MODEL, "net.1bit", IMAGES), WrongTypeError, ("onebit.load(path)",)),
    "verify, the wrong way round": (lambda: onebit.verify(PACKED, MODEL, IMAGES), WrongTypeError, ("packed net",)),
    "verify on nothing": (lambda: onebit.verify(MODEL, PACKED, None), WrongTypeError, ("data: got None",)),
    "certify numbers": (lambda: onebit.certify(MODEL, PACKED, [1, 2, 3]), WrongTypeError, ("data: got",)),
    "a summary of a name": (lambda: onebit.summary("mlp"), WrongTypeError, ("'mlp'", "onebit.create_model")),
    "a summary for other images": (
        lambda: onebit.summary(make_model(), input_shape=(3, 32, 32)), UsageError, ("(3, 32, 32)", "does not take"),
    ),
    "a summary of a side": (
        lambda: onebit.summary(MODEL, input_shape=64), UsageError, ("input_shape=(C, H, W) or an example, got 64",),
    ),
    "binarize a name": (lambda: onebit.binarize_("mlp"), WrongTypeError, ("'mlp'", "onebit.create_model")),
    "a model on an array": (lambda: MODEL(IMAGES), WrongTypeError, ("array uint8", "torch.from_numpy(images)")),
    "a Trainer of a class": (lambda: onebit.Trainer(nn.Flatten), WrongTypeError, ("the class Flatten", "an instance")),
    "a Trainer with lr": (lambda: onebit.Trainer("mlp", lr=0.1), UsageError, ("unknown field lr", "optimizer.lr")),
    "a Trainer on inputs": (lambda: onebit.Trainer(make_model()).fit(IMAGES), UsageError, ("without targets",)),
    "a Trainer on unknown data": (lambda: onebit.Trainer("mlp").fit("tooy"), UsageError, ("did you mean 'toy'?",)),
    "a field of no recipe": (lambda: build_recipe({"learning": 1}), UsageError, ("unknown field learning",)),
    "a device of nobody": (lambda: resolve_device("abacus"), UsageError, ("'abacus'",)),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_answered_in_one_line(mistake: str) -> None:
    attempt, kind, words = MISTAKES[mistake]
    with pytest.raises(OnebitError) as caught:
        attempt()
    message = str(caught.value)
    assert isinstance(caught.value, kind)
    assert isinstance(caught.value, TypeError) == isinstance(caught.value, WrongTypeError)
    assert "\n" not in message
    assert len(message) < 500
    for word in words:
        assert word in message


def refusal(name: str, option: str) -> str:
    """The message for an option with the value None; "" if it is accepted."""
    try:
        create_model(name, **{option: None})
    except UsageError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", covering(MODELS, heavy=DEEPER))
def test_a_model_takes_every_option_that_it_names(name: str) -> None:
    """An option that a message offers exists; its value None may well be refused."""
    names = option_names(MODELS[name])
    assert {"classes", "input_shape", "weight_quantizer", "input_quantizer"} <= set(names)
    with torch.device("meta"):
        for option in names:
            assert "takes no option" not in refusal(name, option)


def test_a_model_without_latents_is_no_mistake() -> None:
    """`latent_groups` marks each group with or without latents, so that none at all is known to be intended."""
    real = create_model("mlp", widths=(64, 8, 4), weight_quantizer=None)
    unclipped = onebit.latent_groups(MODEL, lr=1e-3, latent_clip=None)
    own = [{"params": list(MODEL.parameters()), "latent_clip": 1.0}]
    for groups in (onebit.latent_groups(real, lr=1e-3), unclipped, own):
        onebit.clip_latents_(torch.optim.Adam(groups))


def test_fit_takes_an_optimizer_without_latent_groups() -> None:
    """Nothing was asked to be clipped; `fit` says so where latents leave their range."""
    torch.manual_seed(0)
    model = make_model()
    with pytest.warns(UserWarning, match="the optimizer does not clip them"):
        assert len(onebit.fit(model, DATA, torch.optim.Adam(model.parameters()), epochs=1)) == 1


def test_the_check_of_a_model_draws_nothing_and_changes_no_mode() -> None:
    model = nn.Sequential(onebit.InputCoding(), nn.Flatten(), nn.Dropout(0.5).eval(), nn.Linear(64, 4))
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    try_model(model, torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
    assert torch.equal(torch.rand(4), wanted)
    assert [module.training for module in model] == [True, True, False, True]


def test_described_is_short() -> None:
    assert len(described("x" * 5000)) < 80
    assert described(torch.ones(2, 3)) == "array float32 (2, 3)"
    assert described(np.zeros(2, np.int64)) == "array int64 (2,)"


@pytest.mark.parametrize("value", [True, "1", None, float, 1 + 1j])
def test_what_is_not_a_number(value: object) -> None:
    with pytest.raises(WrongTypeError, match=r"count: got .*, expected a number"):
        check_number("count", value)


def test_numbers_of_numpy_are_numbers() -> None:
    check_number("count", np.int64(3), whole=True, least=1)
    check_number("rate", np.float32(0.5), least=0)
    with pytest.raises(UsageError, match="rate must be 0 or more, got nan"):
        check_number("rate", float("nan"), least=0)
