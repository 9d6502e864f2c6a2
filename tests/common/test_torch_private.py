"""Names that torch does not promise to keep: they mean what we take them for, and none is used elsewhere in onebit."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as all_modules
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from onebit.common import torch_private as private

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "onebit"
OLDEST = "2.6.0"
"""The oldest torch of pyproject.toml."""


class Watches(TorchDispatchMode):
    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return function(*args, **(kwargs or {}))


def within(context: Callable[[], AbstractContextManager[Any]], ask: Callable[[], Any]) -> Any:
    with context():
        return ask()


def under_vmap(ask: Callable[[], Any]) -> Any:
    found = []
    torch.func.vmap(lambda x: (found.append(ask()), x)[1])(torch.zeros(2))
    return found[0]


def under_trace(ask: Callable[[], Any]) -> Any:
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(lambda x: (found.append(ask()), x + 1)[1], torch.zeros(2), check_trace=False)
    return found[0]


WATCHERS: dict[str, Callable[[Callable[[], Any]], Any]] = {
    "vmap": under_vmap,
    "trace": under_trace,
    "dispatch mode": lambda ask: within(Watches, ask),
    "function mode": lambda ask: within(TorchFunctionMode, ask),
    "profiler": lambda ask: within(torch.autograd.profiler.profile, ask),
}


@pytest.mark.parametrize("name", WATCHERS)
def test_watchers_of_operations_are_detected(name: str) -> None:
    assert not private.is_watched()
    assert WATCHERS[name](private.is_watched)
    assert not private.is_watched()


def test_transforms_modes_and_forward_mode_are_told_apart() -> None:
    asked: dict[str, Callable[[], Any]] = {
        "transforms": private.transforms_active,
        "modes": private.dispatch_modes,
        "forward": private.in_forward_mode,
    }
    assert not any(ask() for ask in asked.values())
    seen = {
        "transforms": under_vmap(lambda: {name for name, ask in asked.items() if ask()}),
        "modes": within(Watches, lambda: {name for name, ask in asked.items() if ask()}),
        "forward": within(forward_ad.dual_level, lambda: {name for name, ask in asked.items() if ask()}),
    }
    assert seen == {name: {name} for name in asked}


class Asks(torch.autograd.Function):
    """Notes in its backward pass what the questions answer."""

    found: list[tuple[bool, bool]] = []  # noqa: RUF012

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        Asks.found.append((private.in_backward(), bool(private.is_legacy_batched(gradients[0]))))
        return gradients[0]


@pytest.mark.parametrize("batched", [False, True])
def test_backward_passes_and_batched_gradients_are_detected(batched: bool) -> None:
    x = torch.zeros(3, requires_grad=True)
    Asks.found.clear()
    assert not private.in_backward()
    incoming = torch.eye(3) if batched else torch.ones(3)
    torch.autograd.grad(Asks.apply(x), x, incoming, is_grads_batched=batched)
    assert Asks.found == [(True, batched)]
    assert not private.in_backward()


# -------------------------------------------------------------------------------------------------------------- modules
def test_classes_of_layers_for_any_number_of_axes() -> None:
    for axes in "123":
        assert isinstance(getattr(nn, f"BatchNorm{axes}d")(1), private.BATCH_NORM)
        assert isinstance(getattr(nn, f"InstanceNorm{axes}d")(1), private.INSTANCE_NORM)
        assert isinstance(getattr(nn, f"ConvTranspose{axes}d")(1, 1, 1), private.CONV_TRANSPOSE)
    assert isinstance(nn.SyncBatchNorm(1), private.BATCH_NORM)
    others = nn.LayerNorm(1), nn.Conv2d(1, 1, 1), nn.GroupNorm(1, 1)
    assert not any(isinstance(m, (private.BATCH_NORM, private.INSTANCE_NORM, private.CONV_TRANSPOSE)) for m in others)


def test_what_torch_compile_wraps() -> None:
    layer = nn.Linear(1, 1)
    compiled: Any = torch.compile(layer, backend="eager")
    assert compiled is not layer
    assert private.uncompiled(compiled) is private.uncompiled(layer) is layer
    assert all(name.startswith(f"{private.COMPILED}.") for name in compiled.state_dict())


KINDS = ("forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook")


@pytest.mark.parametrize("kind", KINDS)
def test_hooks_are_detected(kind: str) -> None:
    layer, other = nn.Linear(1, 1), nn.Linear(1, 1)

    def hook(*_: Any) -> None: ...

    assert not private.any_hooks(layer, None)
    handle = getattr(layer, f"register_{kind}")(hook)
    assert private.any_hooks(other, layer)
    assert not private.any_hooks(other)
    assert private.forward_hooks(layer) == ([hook] if "forward" in kind else [])
    handle.remove()
    handle = getattr(all_modules, f"register_module_{kind}")(hook)
    try:
        assert private.any_hooks(other)
    finally:
        handle.remove()
    assert not private.any_hooks(layer, other)


def test_names_of_recurrent_weights() -> None:
    layer = nn.LSTM(2, 3, num_layers=2, bidirectional=True, proj_size=1)
    assert set(private.recurrent_names(layer)) == set(dict(layer.named_parameters()))
    assert private.recurrent_names(nn.GRUCell(2, 3)) == ["weight_ih", "weight_hh"]


def test_the_hooks_of_an_optimizer_are_in_order() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)

    def hook(*_: Any) -> None: ...

    assert private.step_hooks(optimizer) == ([], [])
    optimizer.register_step_post_hook(print)
    optimizer.register_step_post_hook(hook)
    optimizer.register_step_pre_hook(hook)
    assert private.step_hooks(optimizer) == ([hook], [print, hook])


# ----------------------------------------------------------------------------------------------------------- operations
def test_all_tensors_are_clamped_and_moved() -> None:
    tensors = [torch.tensor([-3.0, 0.5]), torch.tensor([2.0])]
    private.clamp_all_(tensors, -1.0, 1.0)
    assert [tensor.tolist() for tensor in tensors] == [[-1, 0.5], [1]]
    private.lerp_all_(tensors, [torch.zeros(2), torch.tensor([3.0])], 0.5)
    assert [tensor.tolist() for tensor in tensors] == [[-0.5, 0.25], [2]]


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_memory_has_an_address(device: str) -> None:
    one, other = torch.zeros(4, device=device), torch.zeros(4, device=device)
    assert private.storage_address(one) == private.storage_address(one[1:].view(3, 1))
    assert private.storage_address(one) != private.storage_address(other)


@pytest.fixture(scope="module")
def other_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter with another torch: that of ONEBIT_OLD_TORCH, else one with the oldest torch, from an index."""
    if given := os.environ.get("ONEBIT_OLD_TORCH"):
        return given
    folder = tmp_path_factory.mktemp("old")
    python = str(folder / "bin" / "python")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    index = ["--index-url", "https://download.pytorch.org/whl/cpu", "--extra-index-url", "https://pypi.org/simple"]
    wanted = [f"torch=={OLDEST}+cpu", "numpy", "safetensors", "pillow", "threadpoolctl"]
    wanted += ["pyyaml", "pytest", "hypothesis"]
    pip = [python, "-m", "pip", "install", "--quiet", "--retries", "1", "--timeout", "20", *index, *wanted]
    done = subprocess.run(pip, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no environment with torch {OLDEST}: {(done.stderr.strip().splitlines() or [''])[-1]}")
    return python


@pytest.mark.nightly
def test_another_torch_passes_the_tests_that_depend_on_its_names(other_python: str) -> None:
    tests = ["common/test_torch_private.py", "quantizers", "layers", "optim/test_latents.py", "train/test_average.py"]
    command = [other_python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(f"tests/{test}" for test in tests)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": f"{SOURCE.parent}{os.pathsep}{ROOT}"}, capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
