"""Learning from a teacher: a trained net whose predictions are the targets."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from onebit.common.fields import Positive, PositiveShare, read
from onebit.data import Dataset
from onebit.errors import UsageError
from onebit.evaluation.batches import kept_training
from onebit.evaluation.losses import Loss, distillation, per_sample
from onebit.evaluation.precision import autocast
from onebit.runtime.torch_module import PackedModule
from onebit.train.fit_data import FitData


@dataclass(frozen=True)
class Teacher:
    """A net to learn from: loss = (1 − weight)·loss(labels) + weight·distillation(teacher).

    With weight 1 and temperature 1 the distributional loss of ReActNet (arXiv:2003.03488); temperature and weight are
    those of Hinton, Vinyals and Dean (arXiv:1503.02531).

    Args:
        model: has the inputs and classes of the trained net; `fit` sets it to eval mode. A `PackedModule` runs on the
            CPU, wherever the net is trained.
        weight: weight of the teacher in the loss; 1 ignores the labels.
        temperature: divides the logits of both nets.
    """

    model: nn.Module
    weight: float = 1.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        read(self.weight, PositiveShare, name="weight of the teacher")
        read(self.temperature, Positive, name="temperature of the teacher")

    def loss(self, own: Loss, logits: Tensor, labels: Tensor, *, images: Tensor, precision: str) -> Tensor:
        """The loss of logits (N, classes) that were computed from `images`; pixels without a class do not count.

        Args:
            own: the loss against the labels.
        """
        with autocast(precision, images.device):
            targets = self.predict(images)
        mine, taught = logits, targets.float()
        if labels.dim() == 3 and logits.dim() == 4 and not labels.is_floating_point():
            (mine, known), (taught, _) = per_sample(logits, labels), per_sample(taught, labels)
            if not len(known):
                return mine.sum()  # 0, as of a loss without samples
        distilled = distillation(mine, taught, temperature=self.temperature)
        return distilled if self.weight == 1 else (1 - self.weight) * own(logits, labels) + self.weight * distilled

    @property
    def packed(self) -> bool:
        """Whether the model is a packed net, which stays on the CPU."""
        return isinstance(self.model, PackedModule)

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """The logits (N, classes) of images, on their device."""
        logits: Tensor = self.model(images.cpu() if self.packed else images)
        return logits.to(images.device)

    @property
    def digest(self) -> str:
        """What must be the same on resume: the settings, and a hash of the weights."""
        total = hashlib.sha256()
        for name, tensor in self.model.state_dict().items():
            total.update(name.encode())
            total.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return f"weight {self.weight:g}, temperature {self.temperature:g}, sha256 {total.hexdigest()}"


def ready_teacher(
    teacher: nn.Module | Teacher,
    model: nn.Module,
    data: Dataset | FitData,
    *,
    device: torch.device,
    layout: torch.memory_format,
    inputs: Any = None,
) -> Teacher:
    """The teacher of a training, on its device and in eval mode.

    Args:
        inputs: of two samples, on the device; None for blank images.
    """
    teacher = teacher if isinstance(teacher, Teacher) else Teacher(teacher)
    refuse_other_shape(getattr(teacher.model, "image_shape" if teacher.packed else "input_shape", None), data)
    if not teacher.packed:
        teacher.model.to(device=device, memory_format=layout)  # type: ignore[call-overload]
    teacher.model.eval()
    if inputs is None:
        shape = getattr(model, "input_shape", data.input_shape)
        inputs = torch.zeros(2, *shape, dtype=torch.uint8, device=device)
    with torch.no_grad(), kept_training(model):
        expected = model.eval()(inputs).shape[1:]
        given = teacher.predict(inputs).shape[1:]
    if given != expected:
        raise UsageError(
            f"the teacher gives predictions of shape {tuple(given)}, the net {tuple(expected)}: use a teacher of "
            f"{len(data.classes) or expected[0]} classes, trained on {data.name}"
        )
    return teacher


def refuse_other_shape(shape: tuple[int, ...] | None, data: Dataset | FitData, *, name: str = "") -> None:
    """Refuse a teacher of images of another shape than the data, as far as both are known."""
    if shape and data.input_shape and tuple(shape) != tuple(data.input_shape):
        raise UsageError(f"teacher {name} takes {tuple(shape)}, {data.name} has {tuple(data.input_shape)}")
