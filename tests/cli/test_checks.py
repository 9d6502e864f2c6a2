"""Whatever can be refused without the data is refused before they are read."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from cli_support import Outcome
from covering import DEEPER, covering

from onebit.cli import train_command, train_verb
from onebit.data import DATASETS
from onebit.errors import UsageError
from onebit.models import MODELS, create_model
from onebit.recipe import ModelRecipe, Recipe, build_recipe, merge
from onebit.runs.resolve import _stand_in, refuse_no_decay, resolve
from onebit.train.ranks import Ranks
from onebit.train.weights import save_weights

Onebit = Callable[..., Outcome]
TWO = Ranks(0, 2)


@pytest.fixture(autouse=True)
def no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object, **__: object) -> None:
        raise AssertionError("the data were read")

    monkeypatch.setattr("onebit.runs.run.load_dataset", read)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--batch_size 50001", "batch_size is 50001, more than the 50,000 training images"),
        ("--epochs 0.0001", "nothing to train: 50,000 training images, 0.0001 epochs"),
        ("--validation 60000", "validation=60000: expected 0 to 59999 of the 60000 training images"),
        ("--model.widths [100,10]", "the first width is 100, but an input of shape (1, 28, 28) has 784 values"),
        ("--model.widths [784,5]", "the last width is 5, but there are 10 classes"),
        ("--input_size 14", "the first width is 784, but an input of shape (1, 14, 14) has 196 values"),
        ("--model vgg16 --model.widths null --input_size 8", "vgg16 on 1×8×8"),
        ("--model unet --model.widths null", "does not predict what mnist has"),
        ("--model.stem cifar", "model 'mlp' takes no option 'stem'"),
        ("--model.init unif", "init must be 'uniform' or 'default', got 'unif'"),
        ("--model.coding int", "unknown input coding 'int'"),
        ("--model.weight_quantizer ste_sign --model.value 0.5", "is ±1 only: leave value at 1"),
        ("--method bayesbinn --model.weight_options.temprature 1", "temprature"),
        ("--method bayesbinn --model.weight_options.temperature 0", "temperature"),
        ("--method bayesbinn --optimizer adam", "concrete_sign is trained by optimizer bayesbinn only, got adam"),
        ("--method ste --optimizer bop --model.weight_quantizer xnor", "optimizer bop trains weight_quantizer sign"),
        ("--optimizer.momentum 0.9", "optimizer.momentum belongs to rmsprop, sgd and bayesbinn, the optimizer is 'ad"),
        ("--optimizer.nesterov true", "optimizer.nesterov needs optimizer.name sgd and a momentum"),
        ("--method bayesbinn --optimizer.prior true", "optimizer.prior takes the weights that bayesbinn starts from"),
        ("--optimizer.prior true", "optimizer.prior belongs to optimizer bayesbinn, but optimizer.name is"),
        (
            "--optimizer.weight_decay 0.5",
            "optimizer.weight_decay 0.5 has no effect: all weights are binary, and latents, biases and BatchNorm do "
            "not decay: leave it out, or add --optimizer.decay_latents true",
        ),
        ("--method bop --optimizer.weight_decay 0.1", "do not decay: leave it out, or add --optimizer.decay_norm true"),
        ("--optimizer.lr_scale glorto", "lr_scale must be one of glorot, glorot_squared or none"),
        ("--optimizer.prox_strength 1", "optimizer.prox_strength belongs to weight_quantizer prox, but model."),
        ("--schedule exponential --schedule.final_lr 0", "needs a final learning rate above 0"),
        ("--schedule.warmup 20", "schedule.warmup is 20 epochs, but training has only 5"),
        ("--precision fp8", "precision must be one of auto, bf16, fp32, got 'fp8'"),
        ("--memory_format nchw", "memory_format must be one of auto, channels_last, contiguous, got 'nchw'"),
        ("--device cuda:77", "CUDA"),
        ("--label_smoothing 0 --loss squared", "unknown loss 'squared'; did you mean 'squared_hinge'?"),
        (
            "--label_smoothing 0.1 --loss mse",
            "loss 'mse' is for regression, mnist has classes: use one of cross_entropy, ",
        ),
        ("--label_smoothing 0.1 --loss hinge", "label_smoothing belongs to cross_entropy, the loss is 'hinge': add --"),
        ("--augmentation.crop_padding 28 --augmentation.padding_mode reflect", "expected at most 27 for images of 28"),
        ("--augmentation.cutout 28", "cutout=28: expected at most 27 for images of 28×28 pixels"),
        ("--augmentation.crop_padding 2 --augmentation.min_area 0.5", "two ways to crop: choose one"),
        ("--augmentation.rotate", "rotate"),
        ("--init_from nowhere.safetensors", "nowhere.safetensors: no such run folder or file"),
        ("--init_from=", "init_from is empty; expected a run folder, a weight file or a packed net"),
        ("--teacher=", "teacher is empty; expected"),
        (
            "--first_stage 1 --init_from mnist-mlp",
            "first_stage trains real weights, those of init_from mnist-mlp are signs",
        ),
        ("--teacher nowhere", "nowhere: no such run folder or file"),
        ("--first_stage 1 --method real", "first_stage trains real weights before binary ones"),
        ("--first_stage 1 --method bop", "first_stage trains real weights, which bop cannot"),
        ("--continual.tasks 2 --continual.against [nothing]", "unknown method 'nothing'"),
        ("--continual.tasks 2 --first_stage 1", "first_stage does not go with several tasks"),
    ],
)
def test_a_wrong_setting_is_refused_before_the_data_are_read(
    onebit: Onebit, tmp_path: Path, flags: str, message: str
) -> None:
    refused = onebit("train", "mnist-fast", *flags.split(), "--out", tmp_path / "run")
    assert refused.status == 2
    assert message in refused.err.splitlines()[-1]
    assert "Traceback" not in refused.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--dataset folder --model resnet20 --model.widths [1,2]", "model 'resnet20' takes no option 'widths'"),
        ("--dataset folder --method bayesbinn --model.weight_options.temperature 0", "temperature"),
        ("--dataset arrays --optimizer.nesterov true", "optimizer.nesterov needs optimizer.name sgd"),
        ("--dataset imagenet --model resnet18 --model.stem middle", "model.stem must be cifar or imagenet"),
        ("--dataset folder --model vgg16 --input_size 8", "vgg16 on 3×8×8"),
        ("--dataset membrane --model vgg_small", "does not predict what membrane has"),
        ("--dataset segmentation --model mlp", "does not predict what segmentation has"),
    ],
)
def test_of_data_that_only_their_files_know_the_rest_is_checked(
    onebit: Onebit, tmp_path: Path, flags: str, message: str
) -> None:
    refused = onebit("train", *flags.split(), "--out", tmp_path / "run")
    assert refused.status == 2
    assert message in refused.err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": {"decay_latents": True}},
        {"optimizer": {"decay_norm": True}},
        {"optimizer": {"name": "bop", "decay_norm": True}},
        {"model": {"real_last": True}},
        {"model": {"weight_quantizer": None}},
        {"first_stage": 1},  # has real weights
    ],
)
def test_weight_decay_of_a_part_of_the_net_is_taken(settings: dict[str, Any]) -> None:
    recipe = build_recipe(merge(settings, {"optimizer": {"weight_decay": 0.1}}))
    resolve(recipe, given=["optimizer.weight_decay"])


def test_weight_decay_of_nothing_in_a_recipe_is_a_note() -> None:
    with pytest.warns(UserWarning, match=r"optimizer\.weight_decay 0\.1 has no effect: all weights are binary"):
        resolve(build_recipe({"optimizer": {"weight_decay": 0.1}}))


def test_no_net_is_built_for_weight_decay_of_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onebit.runs.resolve.build_model", lambda *_, **__: pytest.fail("a net is built"))
    refuse_no_decay(build_recipe({"optimizer": {"weight_decay": 0.0}}))


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_tracker_is_refused_before_the_data_are_read(
    onebit: Onebit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for module in (name, "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, module, None)
    refused = onebit("train", "mnist-fast", f"--{name}", "--out", tmp_path / "run")
    assert refused.status == 2
    assert f"--{name} needs {name}, which is not installed" in refused.err.splitlines()[-1]


def test_only_the_first_process_opens_the_trackers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """wandb would log in once for each of them."""

    class SecondProcess:
        world = 2

        def first(self, action: Callable[[], None]) -> None:
            raise UsageError("the first process refuses")

    def ready() -> None:
        raise AssertionError("asked in the second process")

    monkeypatch.setattr("onebit.runs.trackers.WeightsAndBiases.ready", ready)
    command = train_command.read_command(["mnist-fast", "--wandb"])
    recipe = train_command.train_request(command).recipe
    with pytest.raises(UsageError, match="the first process refuses"):
        train_verb._train_all(command, recipe, tmp_path, SecondProcess())  # type: ignore[arg-type]


def test_weights_of_another_net_are_refused_before_the_data_are_read(onebit: Onebit, tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    save_weights(path, create_model("mlp", widths=(784, 8, 10), weight_quantizer="sign"), {})
    refused = onebit("train", "mnist-fast", "--init_from", path, "--out", tmp_path / "run")
    assert refused.status == 2
    assert "belongs to another net" in refused.line


def test_a_teacher_of_other_images_is_refused_before_the_data_are_read(
    onebit: Onebit, real_folder: Path, tmp_path: Path
) -> None:
    refused = onebit("train", "--dataset", "cifar10", "--teacher", real_folder, "--out", tmp_path / "run")
    assert refused.status == 2
    assert "takes images of shape (1, 28, 28), cifar10 has (3, 32, 32)" in refused.line


@pytest.mark.parametrize(
    ("model", "dataset"),
    covering(
        product([name for name in MODELS if name != "unet"], ["folder", "arrays", "imagenet", "mine"]), heavy=DEEPER
    ),
)
def test_every_model_is_taken_for_images_of_any_size(model: str, dataset: str) -> None:
    """Daily each model for one data set."""
    resolve(build_recipe({"dataset": dataset, "model": {"name": model, "coding": "standardize"}}))


def test_samples_of_any_number_are_taken() -> None:
    resolve(build_recipe({"dataset": "arrays", "model": {"widths": [50, 3]}, "batch_size": 5000}))


def test_a_check_takes_no_memory_for_weights() -> None:
    resolve(Recipe())  # imports
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    resolve(Recipe(model=ModelRecipe(widths=(784, 20_000, 20_000, 10))))  # 1.7 GB of them
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB


def test_images_of_a_check_take_no_memory() -> None:
    split = _stand_in(Recipe(dataset="cifar10"), DATASETS["cifar10"]).train
    assert split.images.shape == (45_000, 3, 32, 32)
    assert not any(split.images.strides)


def test_weights_beyond_memory_are_refused() -> None:
    with pytest.raises(UsageError, match="4,003 GB, and this machine has"):
        resolve(Recipe(model=ModelRecipe(widths=(784, 1_000_000, 1_000_000, 10))))


def test_the_processes_that_train_together_are_checked() -> None:
    with pytest.raises(UsageError, match="learned by one process"):
        resolve(build_recipe({"continual": {"tasks": 2}}), ranks=TWO)
    with pytest.raises(UsageError, match="2 of them need two images each"):
        resolve(Recipe(batch_size=2), ranks=TWO)
