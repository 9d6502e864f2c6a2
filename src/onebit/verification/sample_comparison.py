"""Run a packed net and its model on the same samples, and count how they differ."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from onebit import runtime
from onebit.common import __version__
from onebit.common.progress import PATIENCE, Done, progress
from onebit.data import Dataset, Split
from onebit.errors import FoldError, OnebitError, UsageError
from onebit.evaluation.modes import fixed_weights
from onebit.evaluation.packed_nets import fitted_to
from onebit.evaluation.sources import Samples, as_samples, fitting_batch
from onebit.evaluation.trees import mapped, size_of
from onebit.fold import eval_copy, example_of, fold_model
from onebit.fold.trace import called
from onebit.packed import Certificate, LayerProof, PackedNet
from onebit.runtime.input_batch import as_batches, as_given, fitting
from onebit.verification.layer_proofs import Proof
from onebit.verification.outputs import OutputCounts
from onebit.verification.sample_feeds import (
    InOrder,
    Trained,
    TrainedFeed,
    outputs_by_key,
    targets_by_key,
    tensors,
)
from onebit.verification.sites import SiteCounts, recorded

REFERENCE_IMAGES = 1000
"""Approximate number of images that numpy also runs, 100 times as slowly as the native library."""
MAX_AT_ONCE = 200
"""Samples of a batch, so that progress shows while numpy runs."""
MAX_CHANGED = 1 / 200
"""Fraction of labels, or of samples, that rounding in the preprocessing of the training may change."""
MAX_TIES = 1 / 100
"""Fraction of labels that rounding next to ties may change."""

Arrays = list[np.ndarray]
"""The inputs of a packed net, in their order."""
Outputs = dict[str, np.ndarray]
"""Outputs of some samples by the keys of `PackedNet.keyed`."""


def reference_images(count: int) -> int:
    """How many of `count` images numpy runs if the native library runs all."""
    return -(-count // _reference_step(count, REFERENCE_IMAGES))


def _reference_step(count: int, most: int) -> int:
    """Numpy runs every n-th of `count` images, starting with the first, about `most` of many; this is n."""
    return max(1, count // most)


@dataclass(frozen=True)
class Comparison:
    """The arguments of `onebit.verify`; bits of an integer net, if known; the number of images that numpy runs."""

    model: nn.Module
    packed: PackedNet
    data: Any
    labels: Any = None
    trained: Trained | None = None
    preprocess: nn.Module | None = None
    weights: str = "binary"
    seed: int | None = None
    batch_size: int | None = None
    on_images: Callable[[int, int], None] | None = None
    activations: int | None = None
    numpy: int = REFERENCE_IMAGES

    def run(self) -> tuple[Certificate, Proof | None]:
        """Compare both nets on the samples; the proof is None if the model takes other inputs than the packed net."""
        split = self.data.test if isinstance(self.data, Dataset) else self.data
        samples = as_samples(fitted_to(self.packed, split) if isinstance(split, Split) else split)
        first = next(samples.batches(1), None) if self.packed.free else None
        packed = self.packed if first is None else fitting(self.packed, mapped(Tensor.numpy, first[0]))
        with progress("comparing", "images", self.on_images, after=PATIENCE) as bar:
            return replace(self, packed=packed)._compared(samples, bar.update)

    def _compared(self, samples: Samples, on_images: Done) -> tuple[Certificate, Proof | None]:
        """`run` on samples of the size of the net."""
        packed = self.packed
        labels = None if self.labels is None else InOrder([tensors(self.labels)], name="labels")
        feed = None if self.trained is None else TrainedFeed(packed, self.trained)
        proof = self._proof(feed)
        counts = _Counts(packed, proof, step=_reference_step(samples.count or 10 * REFERENCE_IMAGES, self.numpy))
        model = eval_copy(self.model)
        behind = model if self.preprocess is None else nn.Sequential(eval_copy(self.preprocess), model)
        generator = torch.Generator().manual_seed(self.seed or 0)
        with (
            torch.no_grad(),
            fixed_weights(model, self.weights, generator=generator),
            torch.autocast("cpu", enabled=False),
            recorded(behind, counts.sites.sites) as at_sites,
        ):
            size = self.batch_size or min(MAX_AT_ONCE, *(fitting_batch(spec.shape) for spec in packed.inputs.values()))
            for inputs, targets in samples.batches(max(1, size)):
                arrays, count = as_batches(packed, mapped(Tensor.numpy, inputs)), size_of(inputs)
                arrays = [x.reshape(count, *s.shape) for x, s in zip(arrays, packed.inputs.values(), strict=True)]
                named = {name: torch.from_numpy(x) for name, x in zip(packed.inputs, arrays, strict=True)}
                theirs = as_trained = None
                if feed is not None:
                    trained_outputs, trained_targets = feed.outputs(model, as_given([*named.values()]), count)
                    targets = trained_targets if targets is None else targets
                    theirs = as_trained = outputs_by_key(packed, trained_outputs, count, who="the model as trained")
                if proof:
                    theirs = outputs_by_key(packed, called(behind, mapped(Tensor.clone, named)), count, who="the model")
                    if not all(np.isfinite(output).all() for output in theirs.values()):
                        raise FoldError("the outputs of the model are not finite on these images")
                assert theirs is not None
                truth = targets_by_key(packed, targets if labels is None else labels.take(count))
                counts.add(arrays, theirs, as_trained, truth, at_sites)
                on_images(counts.done, samples.count or counts.done)
        for each in (feed, labels):
            if each is not None:
                each.check_end()
        return self._certificate(counts), proof

    def _proof(self, feed: TrainedFeed | None) -> Proof | None:
        # without the packed preprocessing, a model with a pipeline may not take what the packed net takes
        other_inputs = self.preprocess is None and feed is not None and feed.feeds_model
        with suppress(OnebitError) if other_inputs else nullcontext():
            example, seed = example_of(self.packed), self.seed or 0
            what: dict[str, Any] = {"weights": self.weights, "seed": seed, "sizes": self.packed.sizes}
            folded = fold_model(self.model, example, preprocess=self.preprocess, **what)
            return Proof.of(folded, self.packed, self.activations)
        return None

    def _certificate(self, counts: _Counts) -> Certificate:
        if not counts.done:
            raise UsageError("got no images, expected some to compare the two nets on")
        fields, outputs = counts.result(with_trained=self.trained is not None), counts.outputs
        faults = counts.faults()
        if (fields.get("trained_mismatches") or 0) > max(fields["count"] >= 10, MAX_CHANGED * fields["count"]):
            faults.append("what is packed is not the preprocessing of the training")
        return Certificate(
            onebit=__version__,
            dataset=_name_of(self.data),
            split="test" if isinstance(self.data, Dataset) else "",
            weights=self.weights,
            seed=None if self.weights == "binary" else self.seed or 0,
            max_logit_difference=max(output.difference for output in outputs.values()),
            bit_exact=all(output.bit_exact for output in outputs.values()),
            inputs=tuple(self.packed.inputs) if len(self.packed.inputs) > 1 else (),
            sizes=tuple("×".join(map(str, x.shape[1:])) for x in self.packed.inputs.values() if x.sizes == "any"),
            layers=counts.layers(),
            faults=tuple(faults),
            **fields,
        )


class _Counts:
    """The differences of the two nets, batch by batch.

    Args:
        step: numpy runs every n-th image.
    """

    def __init__(self, packed: PackedNet, proof: Proof | None, *, step: int) -> None:
        self.packed, self.proof, self.step, self.done = packed, proof, step, 0
        self.sites = SiteCounts(packed, proof.sites if proof else ())
        self.outputs: dict[str, OutputCounts] = {}
        self.differing = np.zeros(2, np.int64)
        """Samples in which any output differs from the model, and from the model as trained."""

    def add(
        self, inputs: Arrays, theirs: Outputs, as_trained: Outputs | None, truth: Outputs, at_sites: Outputs
    ) -> None:
        """Count a batch: outputs of the model and of the model as trained, targets, and what torch has at sites."""
        packed, proof, count = self.packed, self.proof, len(inputs[0])
        ours = outputs_by_key(packed, runtime.run(packed, as_given(inputs)), count, who="the packed net")
        if not self.done:
            for key, name in packed.keyed.items():
                self.outputs[key] = OutputCounts(packed, name, ours[key], truth.get(key))
        chosen = (self.done + np.arange(count)) % self.step == 0
        if proof and not proof.rounded:  # only a sign that rounding decides may explain another output
            chosen |= np.any([output.apart(ours[key], theirs[key]) for key, output in self.outputs.items()], axis=0)
        fed_torch = self._reference(inputs, chosen, ours, at_sites)
        differing = np.zeros((2, count), np.bool_)
        for key, output in self.outputs.items():
            trained_output = None if as_trained is None else as_trained[key]
            differing |= output.add(ours[key], theirs[key], trained_output, truth.get(key))
            if proof and proof.activations is None:
                layered = ours[key].copy()
                layered[chosen] = fed_torch[key]
                judged = chosen if proof.rounded else slice(None)
                output.judge(layered[judged], theirs[key][judged])
        self.differing += differing.sum(axis=1)
        self.done += count

    def _reference(self, inputs: Arrays, chosen: np.ndarray, ours: Outputs, at_sites: Outputs) -> Outputs:
        """Numpy's outputs of the chosen samples, each layer fed as in torch; FoldError if the native ones differ."""
        images, packed = [part[chosen] for part in inputs], self.packed
        count = len(images[0])
        if not count:
            return {key: output[:0] for key, output in ours.items()}
        outputs, replaced = self.sites.outputs(images, {name: values[chosen] for name, values in at_sites.items()})
        fed_torch = {key: outputs[name] for key, name in packed.keyed.items()}
        numpy = {key: output.copy() for key, output in fed_torch.items()}
        if replaced.any():
            again = runtime.run(packed, as_given([part[replaced] for part in images]), executor="reference")
            for key, output in outputs_by_key(packed, again, int(replaced.sum()), who="numpy").items():
                numpy[key][replaced] = output
        wrong = [(ours[key][chosen] != output).reshape(count, -1).any(axis=1) for key, output in numpy.items()]
        if differing := int(np.count_nonzero(np.any(wrong, axis=0))):
            raise FoldError(
                f"the native library gives other logits than numpy for {differing} of {count} images: this is a bug "
                "in onebit; set ONEBIT_NATIVE=0 to run without the library"
            )
        return fed_torch

    def layers(self) -> tuple[LayerProof, ...]:
        """The proofs of layers, with the counts of those that are compared on samples."""
        sites = self.sites
        return tuple(
            replace(layer, integers=sites.counts[layer.name], mismatches=sites.differing[layer.name])
            if layer.proof == "float"
            else layer
            for layer in (self.proof.layers if self.proof else ())
        )

    def faults(self) -> list[str]:
        """What is wrong."""
        faults = [*(self.proof.faults if self.proof else ()), *self.sites.faults()]
        for key, output in self.outputs.items():
            if output.beyond:
                name = f"output {key}" if key else "output"
                faults.append(f"{name}: {output.beyond:,} of {output.judged:,} samples differ by more than rounding")
            elif self.proof and self.proof.activations is None and (share := output.other_labels) > MAX_TIES:
                faults.append(f"{share:.1%} of the labels depend on rounding, {self.sites.most_ties()}")
        return faults

    def result(self, *, with_trained: bool) -> dict[str, Any]:
        """The counts in a certificate; of several outputs the samples in which any differs, and the right labels."""
        parts = [output.result() for output in self.outputs.values()]
        if len(parts) == 1:
            return parts[0]
        labeled = [part for part in parts if "correct" in part and part["compared"] != "values"]
        labeled = [part for part in labeled if part["count"] == self.done]
        correct = labeled[0] if len(labeled) == 1 else {}
        fields = {name: value for name, value in correct.items() if name.endswith("correct")}
        fields |= {"compared": "values", "count": self.done, "label_mismatches": int(self.differing[0])}
        return fields | ({"trained_mismatches": int(self.differing[1])} if with_trained else {})


def _name_of(data: Any) -> str:
    """The name of a data set, or the form of other data."""
    if isinstance(data, Dataset):
        return data.name
    form = "arrays" if isinstance(data, (tuple, list)) or hasattr(data, "__array__") else type(data).__name__
    return f"own data ({form})"
