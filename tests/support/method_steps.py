"""Optimizer steps of the methods by name, on any device."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from onebit.cli.train_command import read_command, train_request
from onebit.optim import finish_steps_
from onebit.quantizers import scheduled
from onebit.recipe import Recipe
from onebit.runs.model import build_model
from onebit.runs.training import Training, training_of
from onebit.train.step import Objective, optimizer_step

NETS = {"mlp": ("mnist", (1, 28, 28)), "resnet20": ("cifar10", (3, 32, 32))}
"""Models -> a data set for them, and the shape of its images."""


@dataclass
class Steps:
    """A net, what trains it, and a batch."""

    training: Training
    x: Tensor
    y: Tensor

    def take(self, count: int, precision: str) -> list[float]:
        """The losses of so many steps."""
        losses = []
        for done in range(count):
            for quantizer in scheduled(self.training.model):
                quantizer.set_progress(done / count)
            losses.append(self.step(precision))
        return [float(loss) for loss in losses]

    def step(self, precision: str) -> Tensor:
        made = self.training
        objective = Objective(made.loss, replace(made.settings, precision=precision))
        loss, *_ = optimizer_step(made.model, made.optimizer, self.x, self.y, objective)
        made.schedule.step()
        return loss


def recipe_of(method: str, net: str = "mlp") -> Recipe:
    command = ["--model", net, "--method", method, "--dataset", NETS[net][0], "--epochs", "2"]
    return train_request(read_command(command))


def steps(recipe: Recipe, model: nn.Module, x: Tensor, y: Tensor, device: torch.device) -> Steps:
    model = copy.deepcopy(model).to(device).train()
    training = training_of(recipe, model, images=64, labels=64)
    finish_steps_(training.optimizer)
    return Steps(training, x.to(device), y.to(device))


def whole_net(recipe: Recipe, net: str) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    shape = NETS[net][1]
    x = torch.randint(0, 256, (16, *shape), dtype=torch.uint8)
    return build_model(recipe.model, input_shape=shape, classes=10), x, torch.arange(16) % 10
