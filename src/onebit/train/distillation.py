"""Distillation: a trained net, the teacher, gives the targets."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn

from onebit.common.fields import Checked, Positive, PositiveShare, checked
from onebit.evaluation.forward import autocast
from onebit.evaluation.losses import Loss, distillation, ignored_label, mean_cost, per_sample, token_distillation
from onebit.evaluation.trees import called, floats, leaves, to_device


@checked(frozen=True)
class Teacher(Checked):
    """A net to learn from: loss = (1 − weight)·loss(labels) + weight·distillation(teacher).

    With weight 1 and temperature 1 the distributional loss of ReActNet (arXiv:2003.03488); temperature and weight are
    those of Hinton, Vinyals and Dean (arXiv:1503.02531).

    Args:
        model: takes the inputs and has the classes, or the tokens, of the trained net; `fit` sets it to eval mode. A
            `PackedModule` runs on the CPU, whatever the device of training.
        weight: weight of the teacher in the loss; 1 ignores the labels.
        temperature: divides the logits of both nets.
    """

    PART = "teacher"

    model: nn.Module
    weight: PositiveShare = 1.0
    temperature: Positive = 1.0

    def loss(self, label_loss: Loss, logits: Tensor, labels: Tensor, *, images: Any, precision: str) -> Tensor:
        """The loss of logits (N, classes) of `images`; `label_loss` is that of the labels that count."""
        with autocast(precision, logits.device):
            targets = self.predict(images)
        mine, taught = logits, targets
        several, ignored = 1 < labels.dim() == logits.dim() - 1, ignored_label(label_loss)
        if (several or ignored is not None) and not labels.is_floating_point():
            (mine, known), (taught, _) = (per_sample(outputs, labels, ignored) for outputs in (logits, taught))
            if not len(known):
                return mine.sum()  # 0, as of a loss without samples
        distilled = distillation(mine, taught, temperature=self.temperature)
        if self.weight == 1:
            return distilled
        return (1 - self.weight) * label_loss(logits, labels) + self.weight * distilled

    def token_loss(self, costs: Tensor, logits: Tensor, tokens: Tensor, *, inputs: Any, precision: str) -> Tensor:
        """The loss of a language model with logits (N, T, V); `costs` and `tokens` are those of `token_costs`."""
        with autocast(precision, logits.device):
            targets = self.predict(inputs)
        distilled = token_distillation(logits, targets, tokens, temperature=self.temperature)
        return distilled if self.weight == 1 else (1 - self.weight) * mean_cost(costs) + self.weight * distilled

    @property
    def packed(self) -> bool:
        """Whether the model is a packed net, which stays on the CPU."""
        return bool(getattr(self.model, "holds_bits", False))

    @torch.no_grad()
    def predict(self, images: Any) -> Tensor:
        """The logits (N, classes) of images, on their device."""
        device = next(leaves(images)).device
        outputs = called(self.model, to_device(images, torch.device("cpu")) if self.packed else images)
        logits: Tensor = floats(outputs, "classification").to(device)
        return logits

    def ready_(self, device: torch.device, layout: torch.memory_format) -> None:
        """Put the model into eval mode, on the training device."""
        if not self.packed:
            self.model.to(device=device, memory_format=layout)  # type: ignore[call-overload]
        self.model.eval()

    @property
    def digest(self) -> str:
        """The settings and a hash of the weights, which must be equal on resume."""
        total = hashlib.sha256()
        for name, tensor in self.model.state_dict().items():
            total.update(name.encode())
            total.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return f"weight {self.weight:g}, temperature {self.temperature:g}, sha256 {total.hexdigest()}"
