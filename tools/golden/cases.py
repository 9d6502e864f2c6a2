"""What a version of onebit computes and answers, by public names: cases.py make|all|outputs|time FOLDER [OUT]"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
ISAS = ("portable", "avx2", "avx512bw", "avx512vnni", "avx512")
NARROW = {"vgg_small": 1 / 16, "alexnet": 1 / 16, "resnet18": 1 / 8, "resnet20": 0.5, "unet": 1 / 16}
SHAPES = {"mnist": (28, 28), "cifar": (3, 32, 32), "imagenet": (3, 224, 224)}
TIMES = re.compile(r"seconds|per_second|_us$|^us$|speedup|^directory$|^torch$")
SMALL = ["--model.widths", "[784,32,10]", "--threads", "1"]
CONV = ["--model", "resnet20", "--model.width", "0.5", "--epochs", "1", "--batch_size", "16", "--threads", "1"]
ARRAYS = ["--dataset", "arrays", "--data", "cifar.npz"]
SAMPLE = ["--dataset", "mnist-sample"]
TOY = ["--dataset", "toy", "--model.widths", "[64,16,4]", "--precision", "fp32", "--threads", "1", "--lr", "0.02"]

results: dict[str, Any] = {}


def sha(data: Any) -> str:
    return hashlib.sha256(data.tobytes() if isinstance(data, np.ndarray) else data).hexdigest()[:16]


def shas(outputs: Any) -> Any:
    """Of one output or of several."""
    if isinstance(outputs, dict):
        return {name: shas(output) for name, output in outputs.items()}
    return sha(outputs) if isinstance(outputs, np.ndarray) else [shas(output) for output in outputs]


def case(name: str, function: Callable[..., Any], *arguments: Any) -> None:
    """Keep a value, or the error in its place."""
    try:
        results[name] = function(*arguments)
    except Exception as error:
        traceback.print_exc()
        results[name] = f"{type(error).__name__}"


def main(*arguments: object) -> tuple[int, str, str]:
    """A command line in this process: exit status, stdout, stderr."""
    from onebit.__main__ import main

    buffers = io.BytesIO(), io.BytesIO()
    out, err = (io.TextIOWrapper(buffer, write_through=True) for buffer in buffers)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as end:
            status = int(end.code or 0)
    return status, buffers[0].getvalue().decode(), buffers[1].getvalue().decode()


def done(*arguments: object) -> str:
    """What a command that must succeed prints."""
    status, out, err = main(*arguments)
    if status:
        print(f"STATUS {status}: {shlex.join(map(str, arguments))}\n{err}", file=sys.stderr)
        raise RuntimeError(err)
    return out


def timeless(value: Any) -> Any:
    """JSON without times and places."""
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if not TIMES.search(key)}
    if isinstance(value, list):
        return [timeless(item) for item in value]
    return value.replace(str(Path.cwd().parent), "SIDE") if isinstance(value, str) else value


def answer(*arguments: object) -> Any:
    """Of a command with --json; status 1 is a claim that does not hold."""
    status, out, err = main(*arguments, "--json")
    if status == 2:
        raise RuntimeError(err)
    return {"status": status, **timeless(json.loads(out))}


def keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: keys(item) for key, item in value.items()}
    return keys(value[0]) if isinstance(value, list) and value else type(value).__name__


def weights(folder: str | Path, name: str = "final") -> str:
    from safetensors.numpy import load_file

    arrays = load_file(Path(folder, f"{name}.safetensors"))
    return sha(b"".join(key.encode() + arrays[key].tobytes() for key in sorted(arrays)))


def rows(folder: str | Path) -> list[Any]:
    return [timeless(json.loads(line)) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]


def written(path: str | Path) -> Any:
    """The sha of a file, or of each file of a folder."""
    path = Path(path)
    if path.is_file():
        return sha(path.read_bytes())
    return {str(file.relative_to(path)): sha(file.read_bytes()) for file in sorted(path.rglob("*")) if file.is_file()}


def bare(path: str) -> str:
    """The sha of a packed net without its certificate."""
    from onebit.packed import dumps, load

    return sha(dumps(dataclasses.replace(load(path), certificate=None)))


def make_data() -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    for name, (count, classes) in {
        "mnist": (64, 10),
        "cifar": (64, 10),
        "cifar100": (64, 100),
        "imagenet": (12, 10),
    }.items():
        shape = SHAPES[name.removesuffix("100")]
        images, labels = rng.integers(0, 256, (count, *shape), dtype=np.uint8), np.arange(count) % classes
        held = count // 4
        parts = {"train": slice(2 * held, None), "validation": slice(held, 2 * held), "test": slice(held)}
        arrays: dict[str, Any] = {f"{part}_images": images[rows] for part, rows in parts.items()}
        arrays |= {f"{part}_labels": labels[rows] for part, rows in parts.items()}
        np.savez(f"{name}.npz", **arrays, classes=[str(label) for label in range(classes)])
    for i in range(10):
        for kind, pixels in (("image", rng.integers(0, 256, (32, 32))), ("label", rng.integers(0, 2, (32, 32)) * 255)):
            path = Path("masks", kind, f"{i}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
            for part, modes in {"a": "L", "b": "RGB", "c": "P"}.items():
                photo = Path("photos", part, f"{i}.png")
                photo.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.astype(np.uint8)).convert(modes).save(photo)
    digit = np.zeros((28, 28), np.uint8)
    digit[4:24, 12:16] = 255
    Image.fromarray(digit).save("digit.png")
    Image.fromarray(255 - digit.repeat(3, 0).repeat(3, 1)).convert("RGBA").save("large.png")
    Image.fromarray(digit.astype(np.int32).repeat(2, 0) * 257).convert("I;16").save("deep.png")
    for suffix in ("1bit", "ckpt", "safetensors", "png"):
        Path(f"broken.{suffix}").write_bytes(b"\x89PNG broken" * 99)
    Path("broken.yaml").write_text("name: [")
    Path("huge.yaml").write_text("a: &a [1, 1]\n" + "".join(f"b{i}: &b{i} [*a, *a]\n" for i in range(500_000)))
    Path("pickled.pth").write_bytes(b"cos\nsystem\n(S'touch hacked'\ntR.")


def nets() -> Iterator[tuple[str, Any]]:
    """Packed nets at random weights: images and integers of every kind of layer."""
    import torch

    import onebit

    kinds: dict[str, tuple[str, tuple[int, int, int], dict[str, Any]]] = {
        "mlp": ("mlp", (1, 28, 28), {"widths": (784, 70, 33, 10)}),
        "mlp-signs": ("mlp", (1, 28, 28), {"widths": (784, 70, 33, 10), "input_quantizer": "ste_sign"}),
        "resnet20": ("resnet20", (3, 32, 32), {"width": 0.5}),
        "resnet20-signs": ("resnet20", (3, 32, 32), {"width": 0.5, "input_quantizer": "approx_sign", "bireal": True}),
        "vgg_small": ("vgg_small", (3, 32, 32), {"width": 1 / 8, "input_quantizer": "ste_sign"}),
        "unet": ("unet", (1, 32, 32), {"width": 1 / 8}),
    }
    for name, (model_name, shape, options) in kinds.items():
        torch.manual_seed(0)
        classes = {} if model_name == "mlp" else {"classes": 2 if model_name == "unet" else 10}
        model = onebit.create_model(model_name, weight_quantizer="sign", input_shape=shape, **classes, **options)
        images = torch.randint(0, 256, (40, *shape), dtype=torch.uint8)
        for module in model.modules():
            if "BatchNorm" in type(module).__name__ and module.weight is not None:
                torch.nn.init.normal_(module.weight, 0.5, 1)  # type: ignore[arg-type]
                torch.nn.init.normal_(module.bias)  # type: ignore[arg-type]
        with torch.no_grad():
            model.train()(images)
        net = onebit.pack(model.eval())
        yield name, net
        if name in ("mlp", "resnet20"):
            yield f"{name}-int8", onebit.integer_net(net, images.numpy())


def train(name: str, *arguments: object) -> dict[str, Any]:
    shutil.rmtree(name, ignore_errors=True)
    result = answer("train", *arguments, "--out", name)
    files = sorted(str(file.relative_to(name)) for file in Path(name).rglob("*") if file.is_file())
    shas = {str(file.parent.relative_to(name)): weights(file.parent) for file in Path(name).rglob("final.safetensors")}
    result.pop("sha256", None)
    lines = rows(name) if Path(name, "metrics.jsonl").is_file() else []
    return {"weights": shas, "files": files, "result": result, "rows": lines}


def killed(folder: str, *more: object) -> None:
    """A run that SIGKILL ends after some epochs."""
    command = [sys.executable, "-m", "onebit", "train", "digits-smoke", *SMALL, "--epochs", "30", "--out", folder]
    process = subprocess.Popen([*command, *map(str, more)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    metrics = Path(folder, "metrics.jsonl")
    while process.poll() is None and (not metrics.is_file() or len(metrics.read_text().splitlines()) < 3):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()


def make() -> None:
    """What both versions read, written by the first: data, nets, a finished run and interrupted ones."""
    make_data()
    done("train", "digits-smoke", *SMALL, "--out", "finished")
    done("train", "mnist-bayesbinn-short", "--dataset", "mnist-sample", *SMALL, "--epochs", "0.1", "--out", "bayes")
    for method in ("real", "binaryconnect", "bireal"):
        done("train", *CONV, *ARRAYS, "--method", method, "--out", f"runs/{method}")
    done("pack", "finished", "-o", "finished.1bit")
    killed("killed")
    forget_compile()
    import onebit

    for name, net in nets():
        onebit.save(net, f"{name}.1bit")
    tests = Path(onebit.__file__).parents[2] / "tests"
    sys.path += [str(tests), str(tests / "support")]
    made = importlib.import_module("packed_nets")

    for kind in ("sign", "real", "integer", "levels", "features", "tokens", "signal"):
        onebit.save(getattr(made, f"{kind}_net")(), f"{kind}.1bit")


def forget_compile() -> None:
    """Drop `optimizer.compile` from the runs, which versions without it cannot read; lengths in files stay."""
    for path in Path().rglob("recipe.yaml"):
        path.write_text(re.sub(r"(?m)^  compile: false\n", "", path.read_text()))
    for path in Path().rglob("*.safetensors"):
        found = rb'(\\"clip_grad_value\\": [^,]*)(, \\"compile\\": false)'
        path.write_bytes(re.sub(found, lambda match: match[1].ljust(len(match[0])), path.read_bytes()))


def outputs(folder: str, out: str) -> None:
    """The outputs of all nets; no torch."""
    import onebit

    shipped = [Path(path).stem for path in sorted(Path(onebit.__file__).parent.glob("nets/*.1bit"))]
    for name in [*shipped, *sorted(str(path) for path in Path().glob("*.1bit") if path.name != "broken.1bit")]:
        net = onebit.load(name)
        rng, shape = np.random.default_rng(0), net.input.shape
        count = 1 if np.prod(shape) > 5000 or "vgg" in name else 3
        batch = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
        if net.input.dtype != "uint8":
            batch = rng.standard_normal((count, *shape)).astype(np.float32)
        if os.environ.get("ONEBIT_NATIVE") == "0" and ("unet" in name or "vgg" in name):
            batch = batch[:1]
        case(name, lambda net=net, batch=batch: shas(onebit.run(net, batch)))
    Path(out).write_text(json.dumps(results))


def config(*arguments: str) -> Any:
    import yaml

    return yaml.safe_load(done("train", *arguments, "--print-config"))


def recipe_flags(name: str) -> list[str]:
    """What makes a recipe small, on generated data; without the runs it starts from."""
    recipe = results[f"config {name}"] = config(name)
    data, model = recipe["dataset"], recipe["model"]["name"]
    flags = {"threads": "1", "epochs": "1", "batch_size": "16"}
    flags |= {field: "null" for field in ("init_from", "teacher", "whitening") if recipe[field]}
    if recipe.get("first_stage"):
        flags["first_stage"] = "1"
    if model == "mlp":
        flags["model.widths"] = "[784,64,64,10]"
    elif model in NARROW:
        flags["model.width"] = str(NARROW[model])
    if data == "membrane":
        flags |= {
            "dataset": "segmentation",
            "data": "masks",
            "validation": "2",
            "batch_size": "6",
            "model.padding": "same",
        }
        flags |= {"augmentation.crop_size": "16", "augmentation.crop_padding": "0", "augmentation.repeats": "2"}
    elif data == "mnist-sample":
        flags |= {"epochs": "0.03", "batch_size": "100"}
    else:
        flags |= {"dataset": "arrays", "data": f"{'cifar' if data == 'cifar10' else data}.npz", "validation": "16"}
        flags |= {"validation": "3", "batch_size": "3"} if data == "imagenet" else {}
    return [word for flag, value in flags.items() for word in (f"--{flag}", value)]


def trained() -> None:
    recipes = list(json.loads(done("list", "recipes", "--json"))["recipes"])
    for name in recipes:
        case(f"recipe {name}", lambda name=name: train("out", name, *recipe_flags(name)))
    methods = list(json.loads(done("list", "methods", "--json"))["methods"])
    for method in methods:
        for model, data in {"mlp": "mnist", "resnet20": "cifar"}.items():
            small = ["--model.widths", "[784,64,64,10]"] if model == "mlp" else ["--model.width", "0.5"]
            flags = ["--model", model, "--method", method, *small, "--epochs", "1", "--batch_size", "16"]
            flags += ["--dataset", "arrays", "--data", f"{data}.npz", "--threads", "1"]
            case(f"method {method} {model}", train, "out", *flags)
            given = ["--model", model, "--method", method, "--dataset", data.replace("cifar", "cifar10")]
            case(f"config {method} {model}", config, *given)
    more = {
        "teacher": "--method binaryconnect --teacher runs/real --teacher_weight 0.5",
        "init_from": "--method binaryconnect --init_from runs/real",
        "init_from binary": "--method bireal --init_from runs/bireal",
        "first_stage": "--method binaryconnect --first_stage 1",
        "ema": "--method binaryconnect --ema 0.9",
        "accumulate": "--method ste --optimizer.accumulate 2 --optimizer.clip_grad_norm 1",
        "samples": "--method bayesbinn --optimizer.samples 2",
        "augmentation": "--augmentation.crop_padding 4 --augmentation.flip true --augmentation.cutout 8",
        "growing": "--augmentation.first_size 16 --epochs 2",
        "recompute": "--method bnn --recompute_inputs true",
        "bf16": "--precision bf16",
        "fp32": "--precision fp32 --memory_format contiguous",
        "seeds": "--seeds 0-1",
        **{f"optimizer {name}": f"--optimizer {name}" for name in ("sgd", "adamw", "rmsprop", "bop", "nadam")},
        **{
            f"schedule {name}": f"--schedule {name} --schedule.warmup 0.5"
            for name in ("linear", "cosine", "one_cycle", "constant")
        },
        **{f"loss {name}": f"--loss {name}" for name in ("hinge", "squared_hinge")},
    }
    for name, text in more.items():
        case(f"train {name}", train, "out", *CONV, *ARRAYS, *text.split())
    case("train photos", train, "out", *CONV, "--dataset", "folder", "--data", "photos", "--input_size", "32")
    case("train from a net", train, "out", "mnist-fast", *SAMPLE, "--init_from", "mnist-mlp", "--epochs", "0.1")
    tasks = ["mnist-permuted", "--dataset", "mnist-sample", *SMALL, "--continual.tasks", "2", "--epochs", "0.1"]
    case("train tasks", train, "out", *tasks)


def verbs() -> None:
    """Of what the first version wrote."""
    for run in ("finished", "bayes", "runs/binaryconnect", "runs/bireal", "runs/real"):
        for mode in ("latent", "binary", "sample", "ensemble:2", "packed", "mean"):
            case(f"evaluate {mode} {run}", answer, "evaluate", run, "--weights", mode)
        case(f"evaluate train {run}", answer, "evaluate", run, "--split", "train")
        case(f"verify {run}", answer, "verify", run)
        case(f"inspect {run}", answer, "inspect", run)
        case(f"inspect ckpt {run}", answer, "inspect", f"{run}/last.ckpt")
        case(f"summary {run}", answer, "summary", run)
        case(f"pack {run}", answer, "pack", run, "-o", "a.1bit")
        case(f"bytes of {run}", bare, "a.1bit")
        case(f"verify packed {run}", answer, "verify", "a.1bit", "--source", run)
        case(f"export torch {run}", answer, "export", run, "--to", "torch", "-o", "t.safetensors")
        case(f"weights of torch {run}", weights, ".", "t")
        for target, place in {"c": "c", "onnx": "a.onnx", "html": "a.html"}.items():
            case(f"export {target} {run}", answer, "export", run, "--to", target, "-o", place, "--images", "2")
    int8 = ["pack", "runs/binaryconnect", "--activations", "8", "--calibration", "32", "--allow-drop", "100"]
    case("pack int8", answer, *int8, "-o", "b.1bit")
    case("pack sample", answer, "pack", "bayes", "-o", "c.1bit", "--weights", "sample")
    case("bytes of int8 and sample", lambda: [bare("b.1bit"), bare("c.1bit")])
    for net in ("finished.1bit", "mnist-mlp", "mnist-mlp-signs"):
        for verb in ("inspect", "summary", "evaluate --dataset mnist-sample", "verify"):
            words = verb.split()
            case(f"{verb} {net}", answer, words[0], net, *words[1:])
        for picture in ("digit.png", "large.png", "deep.png", "photos/a"):
            case(f"predict {net} {picture}", answer, "predict", net, picture, "--top", "3")
        case(f"predict values {net}", answer, "predict", net, "large.png", "--values", "--invert")
    case("predict unet", answer, "predict", "unet.1bit", "masks/image/1.png", "--masks", "predicted")
    case("masks", written, "predicted")
    case("report", lambda: keys(answer("report", "finished", "runs/bireal", "-o", "page")))
    case("report files", lambda: sorted(str(file) for file in Path("page").rglob("*")))
    bench = ["bench", "finished.1bit", "--rounds", "1", "--seconds", "0.001"]
    case("bench", lambda: keys(json.loads(done(*bench, "--json"))))
    case("list", answer, "list")
    kinds = "nets recipes methods models quantizers optimizers losses schedules datasets exports"
    for kind in kinds.split():
        case(f"list {kind}", answer, "list", kind)
    case("data", answer, "data", "mnist-sample")
    case("data arrays", answer, "data", "arrays", "--data", "cifar.npz")
    case("data masks", answer, "data", "segmentation", "--data", "masks")
    for model, method in {"resnet20": "bireal", "unet": "ste", "vgg_small": "bnn"}.items():
        shape = "1,32,32" if model == "unet" else "3,32,32"
        case(f"summary {model}", answer, "summary", "--model", model, "--method", method, "--input_shape", shape)
    for shell in ("bash", "zsh", "fish"):
        case(
            f"completion {shell}", lambda shell=shell: sorted({*re.findall(r"--[a-z_.-]+", done("completion", shell))})
        )


def exports() -> None:
    import onebit

    for name, net in nets():
        onebit.save(net, "a.1bit")
        case(f"bytes {name}.1bit", written, "a.1bit")
    shipped = [Path(path).stem for path in sorted(Path(onebit.__file__).parent.glob("nets/*.1bit"))]
    files = sorted(str(path) for path in Path().glob("*.1bit") if len(path.stem) > 1 and path.stem != "broken")
    for name in [*shipped, *files]:
        onebit.save(onebit.load(name), "a.1bit")
        case(f"read {name}", bare, "a.1bit")
        if "vgg" in name or name == "membrane-unet":  # minutes in numpy or JavaScript
            continue
        for target, place in {"c": "c", "onnx": "a.onnx", "html": "a.html"}.items():
            shutil.rmtree("c", ignore_errors=True)

            def export(name: str = name, target: str = target, place: str = place) -> Any:
                onebit.export_net(name, target, place, count=2)
                return written(place)

            case(f"export {target} {name}", export)


def processes() -> None:
    """What needs processes of its own."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "onebit"]
    for synced in ("true", "false"):
        command = [*torchrun, "train", *TOY, "--batch_size", "512", "--epochs", "2", "--sync_norm", synced, "--json"]
        ended = subprocess.run([*command, "--out", f"two-{synced}"], capture_output=True, text=True)
        sys.stderr.write(ended.stderr)
        case(f"ranks {synced}", lambda synced=synced: [weights(f"two-{synced}"), rows(f"two-{synced}")])
    short = ["--epochs", "6"]
    done("train", "digits-smoke", *SMALL, *short, "--out", "whole")
    killed("dead", *short)
    done("train", "--resume", "dead")
    case(
        "resume equals whole",
        lambda: [weights("dead") == weights("whole"), rows("dead") == rows("whole"), weights("whole")],
    )
    for isa in ISAS[:3]:
        command = [sys.executable, "-m", "onebit", "train", "mnist-bnn-short", "--dataset", "mnist-sample", *SMALL]
        command += ["--epochs", "0.1", "--out", f"isa-{isa}"]
        subprocess.run(command, env={**os.environ, "ONEBIT_ISA": isa}, stderr=subprocess.DEVNULL)
        case(f"train {isa}", weights, f"isa-{isa}")
    ways = {isa: {"ONEBIT_ISA": isa} for isa in ISAS} | {"numpy": {"ONEBIT_NATIVE": "0"}}
    ways |= {f"{count} threads": {"ONEBIT_THREADS": count} for count in ("1", "3")}
    for way, environment in ways.items():
        command = [sys.executable, __file__, "outputs", ".", "outputs.json"]
        subprocess.run(command, env={**os.environ, **environment}, check=True)
        results[f"outputs {way}"] = json.loads(Path("outputs.json").read_text())


def wrong_commands() -> None:
    for line in (HERE / "commands.txt").read_text().splitlines():

        def ended(line: str = line) -> Any:
            status, out, err = main(*shlex.split(line))
            lines = [text for text in err.splitlines() if text.startswith("onebit: ")]
            return {"status": status, "traceback": "Traceback" in err, "lines": len(lines), "out": bool(out)}

        case(f"wrong {line}", ended)
    case("nothing ran", lambda: Path("hacked").exists())


def timing() -> None:
    """For each line of stdin, a name, one round of it: its seconds on stdout."""
    import torch

    import onebit

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    digits, labels = rng.integers(0, 256, (1000, 28, 28), dtype=np.uint8), np.arange(1000) % 10
    pixels = rng.integers(0, 256, (160, 3, 32, 32), dtype=np.uint8)
    options = {"weight_quantizer": "sign"}

    def steps(kind: str, x: Any, batch: int, **more: Any) -> Callable[[], Any]:
        torch.manual_seed(0)
        model = onebit.create_model(kind, **options, **more)
        optimizer = torch.optim.Adam(onebit.latent_groups(model, lr=0.01))
        data = (x, labels[: len(x)])
        return lambda: onebit.fit(model, data, optimizer, epochs=1, batch_size=batch, verbose=False, precision="fp32")

    def calls(function: Callable[..., Any], *arguments: Any, count: int) -> Callable[[], Any]:
        return lambda: [function(*arguments) for _ in range(count)] and None

    mlp, resnet = onebit.load("mnist-mlp"), onebit.load("resnet20-cifar10")
    layered = torch.nn.Sequential(
        torch.nn.Flatten(), onebit.BinaryLinear(784, 512), torch.nn.ReLU(), onebit.BinaryLinear(512, 10)
    )
    onebit.packed_layers_(layered.eval())
    values, module = torch.randn(1, 1, 28, 28), onebit.PackedModule(mlp)
    rounds: dict[str, Callable[[], Any]] = {
        "50 steps mlp": steps("mlp", digits, 20, widths=(784, 512, 512, 10)),
        "10 steps resnet20": steps("resnet20", pixels, 16, width=0.5, input_shape=(3, 32, 32), classes=10),
        "500 run mlp": calls(lambda: onebit.run(mlp, digits[:1], threads=1), count=500),
        "10 run mlp, 500": calls(lambda: onebit.run(mlp, digits[:500], threads=1), count=10),
        "20 run resnet20": calls(lambda: onebit.run(resnet, pixels[:1], threads=1), count=20),
        "500 PackedModule": calls(module, torch.from_numpy(digits[:1, None]), count=500),
        "500 packed_layers_": calls(torch.inference_mode()(layered), values, count=500),
    }
    for run in rounds.values():
        run()
    print(json.dumps(list(rounds)), flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        rounds[line.strip()]()
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    mode, folder, *rest = sys.argv[1:]
    os.chdir(folder)
    if mode == "make":
        make()
    elif mode == "outputs":
        outputs(".", *rest)
    elif mode == "time":
        timing()
    else:
        for part in (wrong_commands, verbs, exports, trained, processes):
            start = time.perf_counter()
            part()
            Path(*rest).write_text(json.dumps(results))
            print(f"{part.__name__}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
        case("resume killed by the first", lambda: [done("train", "--resume", "killed") and None, weights("killed")])
        Path(*rest).write_text(json.dumps(results))
