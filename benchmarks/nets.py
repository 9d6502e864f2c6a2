"""Whole packed nets, native on each instruction set, against the same nets in plain torch and float32.

The float nets have the ±1 weights in ordinary layers, so they do not take signs of weights while they are timed. They
run as they are ("torch"), with each BatchNorm folded into the layer before it ("folded"), and folded and frozen, with
weights prepacked for oneDNN ("frozen"), in both memory formats.

An integer net also takes turns with the same net quantized by onnxruntime: 8-bit weights and activations, calibrated on
the same images ("int8"). With --onnx, the files of `onebit export --to onnx` take turns as well.

A call is that of `onebit.run`, with its checks; beside it the plan alone, on the best instruction set. Before anything
is timed, the native logits are compared bit for bit with those of the reference executor, the outputs of both ONNX
files with each other, and the labels with those of plain torch.
"""

from __future__ import annotations

import copy
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

import onebit
from benchmarks.shared import CLOCK, Call, Clock, Rows, compare, rows
from onebit.export.onnx import target

FLOOR = "torch"
HAS_ONNXRUNTIME = all(map(find_spec, ("onnx", "onnxruntime")))
CALIBRATION_BATCH = 32
INT8, FLOAT_FILE, FILE, ALONE = "onnxruntime, 8 bits", "ONNX file of floats", "ONNX file", "plan alone"
COLUMNS = {"net": "", "batch": "d", "variant": "", "us": ",.1f", "fastest_us": ",.1f", "torch_speedup": ".2f"}
COLUMNS |= {"best_speedup": ".2f", "int8_speedup": ".2f", "file_speedup": ".2f", "label_mismatches": "d"}


class Net(NamedTuple):
    """A model with binary weights, its input quantizer, and the bits to which the packed net rounds activations."""

    model: str
    inputs: str | None = None
    activations: int | None = None


NETS = {
    "mlp-weights": Net("mlp"),
    "mlp-8bit": Net("mlp", activations=8),
    "mlp-signs": Net("mlp", inputs="ste_sign"),
    "resnet20-weights": Net("resnet20"),
    "resnet20-8bit": Net("resnet20", activations=8),
    "vgg-signs": Net("vgg_small", inputs="ste_sign"),
}
"""The mlp is 784–3×2048–10, the others take images of 3×32×32 and give 10 classes."""


class Sign(nn.Module):
    """The sign of an input, without a gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return onebit.sign(x)


def build(net: Net, *, width: float = 1.0) -> nn.Module:
    """A net with random weights in eval mode whose BatchNorms are like those of a trained net: signs are balanced.

    Their statistics are those of noise, moved by half a standard deviation or so, their scales and shifts are random.
    """
    torch.manual_seed(0)
    options: dict[str, Any] = {"widths": (784, *[max(1, round(2048 * width))] * 3, 10)}
    if net.model != "mlp":
        options = {"input_shape": (3, 32, 32), "classes": 10, "width": width, "last_norm": True}
    model = onebit.create_model(net.model, weight_quantizer="sign", input_quantizer=net.inputs, **options)
    onebit.evaluation.modes.reestimate_batch_norm_(model, make_images(model, 64, seed=1))
    for norm in onebit.layers.batch_norms(model.requires_grad_(False)):
        norm.running_mean += 0.5 * norm.running_var.sqrt() * torch.randn(norm.num_features)
        norm.running_var *= nn.init.uniform_(torch.empty(norm.num_features), 0.5, 2)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.5)
    return model.eval()


def make_images(model: Any, count: int, *, seed: int = 0) -> np.ndarray:
    """Noise in squares of 4×4 pixels, (count, C, H, W) uint8. With noise of single pixels outputs hardly vary."""
    channels, height, width = model.input_shape
    squares = np.random.default_rng(seed).integers(0, 256, (count, channels, height // 4, width // 4), dtype=np.uint8)
    return squares.repeat(4, 2).repeat(4, 3)


def packed_form(model: nn.Module, activations: int | None) -> onebit.packed.PackedNet:
    """The packed net of a model: exact, or with activations of some bits, calibrated on noise."""
    net = onebit.pack(model)
    return onebit.integer_net(net, make_images(model, 128, seed=2), activations=activations) if activations else net


def float_twin(model: nn.Module) -> nn.Module:
    """The same net with its binary weights in layers of `torch.nn`."""
    twin = copy.deepcopy(model)
    for path, layer in list(onebit.layers.binary_layers(twin)):
        if layer.input_quantizer is not None:
            layer.input_quantizer = None
            twin.set_submodule(path, nn.Sequential(Sign(), layer))
    return onebit.layers.dense_(twin)


def float_nets(net: nn.Module, x: Tensor) -> Iterator[tuple[str, Call]]:
    """(name, call): plain torch first, then BatchNorm folded, and frozen, in each memory format.

    A net that torch fails to freeze is left out.
    """
    forms = {FLOOR: net}
    if onebit.layers.batch_norms(net):
        forms["folded"] = fuse(net)
    forms["frozen"] = forms.get("folded", net)
    convolves = any(parameter.dim() == 4 for parameter in net.parameters())
    for layout, suffix in ((torch.contiguous_format, ""), (torch.channels_last, ", channels_last"))[: 1 + convolves]:
        batch = x.contiguous(memory_format=layout)
        for name, form in forms.items():
            made: Any = copy.deepcopy(form).to(memory_format=layout)  # type: ignore[call-overload]
            made = frozen(made, batch) if name == "frozen" else made
            if made is not None:
                yield name + suffix, partial(made, batch)


def frozen(net: nn.Module, x: Tensor) -> Any:
    """The net with its weights prepacked for oneDNN; None if torch fails to freeze it."""
    with warnings.catch_warnings(), torch.no_grad(), suppress(RuntimeError, AttributeError):
        warnings.simplefilter("ignore")  # torch.jit is deprecated, but only it prepacks weights without a compiler
        made = torch.jit.optimize_for_inference(torch.jit.trace(net, x))
        for _ in range(3):  # its first calls are slow
            made(x)
        return made
    return None


def session(model: str | bytes, threads: int) -> Any:
    """An InferenceSession on the CPU."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.inter_op_num_threads = threads, 1
    settings.log_severity_level = 3
    return onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])


def exported(net: onebit.packed.PackedNet, flavor: str, threads: int) -> Callable[[Any], np.ndarray]:
    """A function from images to logits: the ONNX file of a net."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        target.write(net, path, flavor=flavor)
        made = session(str(path), threads)
    return lambda images: made.run(None, {"input": images})[0]


def quantized(net: onebit.packed.PackedNet, images: np.ndarray, threads: int) -> Callable[[Any], np.ndarray]:
    """A function from uint8 images to logits: the exact net in float32, quantized by onnxruntime.

    Static quantization with int8 weights, one scale per channel, and uint8 activations whose ranges are those of
    `images`, in operators that compute with 8 bits (`QOperator`).
    """
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    batches = iter(np.array_split(images, -(-len(images) // CALIBRATION_BATCH)))
    reader = SimpleNamespace(get_next=lambda: next(({"input": batch} for batch in batches), None))
    how: dict[str, Any] = {"quant_format": quantization.QuantFormat.QOperator, "per_channel": True}
    how |= {"activation_type": quantization.QuantType.QUInt8, "weight_type": quantization.QuantType.QInt8}
    with tempfile.TemporaryDirectory() as folder:
        plain, prepared, made = (str(Path(folder) / name) for name in ("float.onnx", "prepared.onnx", "int8.onnx"))
        target.write(net, Path(plain), flavor="float")
        logging.disable(logging.WARNING)
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # it prints whole graphs
            quant_pre_process(plain, prepared)
            quantization.quantize_static(prepared, made, reader, **how)
        logging.disable(logging.NOTSET)
        int8 = session(made, threads)
    return lambda images: int8.run(None, {"input": images})[0]


def measure(*, nets: Sequence[str] = tuple(NETS), onnx: bool = False, clock: Clock = CLOCK) -> Rows:
    """Rows of net, batch, variant, µs per call, and speed-ups over torch, the best float net, int8, and the ONNX file.

    Args:
        nets: names of nets
        onnx: also the files of `onebit export --to onnx`
    """
    for name in nets:
        batches = (1, 256 if NETS[name].model == "mlp" else 64)
        yield from time_net(name, build(NETS[name]), batches, onnx=onnx, clock=clock)


@torch.inference_mode()
def time_net(name: str, model: nn.Module, batches: Sequence[int], *, onnx: bool, clock: Clock) -> Rows:
    """The rows of a net; OnebitError if native logits, outputs of the two ONNX files, or too many labels differ."""
    activations, threads = NETS[name].activations, clock.threads
    packed, twin = packed_form(model, activations), float_twin(model)
    plans = {isa: onebit.native.make_plan(packed, found) for isa, found in onebit.native.instruction_sets().items()}
    others: dict[str, Any] = {}
    if plans and threads == 1:
        best = list(plans.values())[-1]
        others[ALONE] = lambda images: best.run(images)[0]
    if activations is not None and HAS_ONNXRUNTIME:
        others[INT8] = quantized(onebit.pack(model), make_images(model, 128, seed=2), threads)
    if onnx:
        others |= {FLOAT_FILE: exported(packed, "float", threads), FILE: exported(packed, "standard", threads)}
    for batch in batches:
        images = make_images(model, batch)
        floats = dict(float_nets(twin, torch.from_numpy(images)))
        native = partial(onebit.runtime.running.run_planned, batch=images, threads=threads)
        calls: dict[str, Call] = {
            **floats,
            **{isa: partial(native, packed, plan) for isa, plan in plans.items()},
            **{other: partial(call, images) for other, call in others.items()},
        }
        logits = {variant: np.asarray(call()) for variant, call in calls.items()}
        check = onebit.runtime.timing.against_reference(packed, images)
        for isa in plans:
            check(f"{name}, batch {batch}, {isa}", logits[isa])
        if onnx:
            compare(f"{name}, batch {batch}, ONNX files", logits[FILE], logits[FLOAT_FILE], 0.0)
        labels = {variant: each.argmax(axis=1) for variant, each in logits.items()}
        wrong = {variant: int((each != labels[FLOOR]).sum()) for variant, each in labels.items()}
        # rounding explains few other labels, and more where activations of a net with random weights have few bits
        if max(wrong.values()) > max(1, batch // (20 if activations is None else 5)):
            raise onebit.errors.OnebitError(f"{name}, batch {batch}: labels that differ from those of torch: {wrong}")
        times, int8, file = clock.time(calls), {INT8} & calls.keys(), [FLOAT_FILE] * onnx
        for row in rows(times, calls, torch=[FLOOR], best=floats, int8=int8, file=file):
            yield {"net": name, "batch": batch, "label_mismatches": wrong[row["variant"]], **row}
