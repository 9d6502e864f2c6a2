"""ONNX files in the executor of qonnx and in onnxruntime-web, which are installed into a cache for that."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import onebit
from onebit.export import export_net
from onebit.export.onnx import target
from onebit.export.onnx.exactness import Uses
from onebit.packed import PackedNet, save
from onebit.runtime import run
from support.installed import cached
from support.packed_nets import IMAGE_NETS, inputs_of, integer_resnet, make_packed_mlp, signs_conv
from support.recipe_nets import SMALL, packed_net

pytestmark = pytest.mark.nightly

QONNX = ("qonnx==1.0.0", "onnx==1.19.1", "safetensors")  # qonnx cannot read what later versions of onnx write
WEB = "onnxruntime-web@1.30.0"

EXECUTE = """
import sys
from pathlib import Path
import numpy as np
import onebit
from onebit.export.onnx import target
net, model, inputs, answers, cleans = sys.argv[1:]
found = target.run(onebit.load(net), Path(model), np.load(inputs), flavor="qonnx")
np.savez(answers, **found)
if cleans == "False":
    sys.exit()
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx
from qonnx.transformation.infer_shapes import InferShapes
from qonnx.util.cleanup import cleanup_model
# what tools do first, which renames inputs and outputs
clean = cleanup_model(ModelWrapper(model)).transform(InferShapes())
given, made = clean.graph.input[0].name, [value.name for value in clean.graph.output]
for index, sample in enumerate(np.load(inputs)):
    again = execute_onnx(clean, {given: sample[None]})
    for name, array in zip(made, found.values(), strict=True):
        assert (again[name][0] == array[index]).all()
"""

SERVE = """
import fs from "fs";
import * as ort from "onnxruntime-web";
ort.env.wasm.numThreads = 1;
ort.env.logLevel = "error";
for (const name of process.argv.slice(2)) {
  const { dtype, shape, output } = JSON.parse(fs.readFileSync(`${name}.json`));
  const session = await ort.InferenceSession.create(fs.readFileSync(`${name}.onnx`), { executionProviders: ["wasm"] });
  const bytes = new Uint8Array(fs.readFileSync(`${name}.in`));
  const data = dtype === "uint8" ? bytes : new Float32Array(bytes.buffer);
  const answers = await session.run({ input: new ort.Tensor(dtype, data, shape) });
  fs.writeFileSync(`${name}.out`, new Uint8Array(answers[output].data.buffer));
}
"""


NETS: dict[str, Callable[[], PackedNet]] = {
    "mlp": make_packed_mlp,
    "mlp of signs": lambda: make_packed_mlp(form="sign"),
    "convolutions of signs": signs_conv,
    "all of signs": IMAGE_NETS["sign"],
    "reals": IMAGE_NETS["real"],
    "integers": IMAGE_NETS["integer"],
    "residual integers": integer_resnet,
    "resnet20": lambda: packed_net(SMALL["cifar10-resnet20-binaryconnect"], 4)[1],
}


@pytest.mark.parametrize("name", NETS)
def test_the_executor_of_qonnx_computes_the_same(name: str, tmp_path: Path) -> None:
    def install(folder: Path) -> list[list[str]]:
        python = str(folder / "bin" / "python")
        return [[sys.executable, "-m", "venv", str(folder)], [python, "-m", "pip", "install", "-q", *QONNX]]

    python = cached("qonnx", install) / "bin" / "python"
    net = NETS[name]()
    inputs = inputs_of(net, 5)
    files = [tmp_path / file for file in ("net.1bit", "net.onnx", "inputs.npy", "answers.npz")]
    save(net, files[0])
    assert export_net(net, "onnx", files[1], flavor="qonnx").comparison is None
    np.save(files[2], inputs)
    source = {**os.environ, "PYTHONPATH": str(Path(onebit.__file__).parents[1])}
    # a value that a node reads twice loses its shape when qonnx cleans a graph up
    cleans = str(all(len(set(node.inputs)) == len(node.inputs) for node in net.nodes))
    made = subprocess.run([python, "-c", EXECUTE, *map(str, files), cleans], env=source, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    found, expected = np.load(files[3]), net.by_name(run(net, inputs))
    for output in net.outputs:
        largest = np.abs(expected[output]).max()
        np.testing.assert_allclose(found[output] / largest, expected[output] / largest, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", NETS)
def test_onnxruntime_web_computes_the_same(name: str, tmp_path: Path) -> None:
    if not shutil.which("node") or not shutil.which("npm"):
        pytest.skip("node and npm are not installed: onnxruntime-web is not tested")

    def install(folder: Path) -> list[list[str]]:
        return [["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), WEB]]

    folder = cached("onnxruntime-web", install)
    (folder / "serve.mjs").write_text(SERVE, encoding="utf-8")
    net = NETS[name]()
    inputs = inputs_of(net, 5)
    said = json.dumps({"dtype": str(inputs.dtype), "shape": inputs.shape, "output": net.output})
    paths = {flavor: tmp_path / flavor for flavor in ("standard", "float")}
    for flavor, path in paths.items():
        target.write(net, path.with_suffix(".onnx"), flavor=flavor)
        path.with_suffix(".json").write_text(said, encoding="utf-8")
        path.with_suffix(".in").write_bytes(inputs.tobytes())
    subprocess.run(["node", "serve.mjs", *map(str, paths.values())], cwd=folder, check=True)
    answers = {
        flavor: np.frombuffer(path.with_suffix(".out").read_bytes(), np.float32) for flavor, path in paths.items()
    }
    assert answers["standard"].tobytes() == answers["float"].tobytes()
    expected = net.by_name(run(net, inputs))[net.output].reshape(-1)
    if net.output in Uses(net).exact:
        np.testing.assert_array_equal(answers["standard"], expected)
    else:
        largest = np.abs(expected).max()
        np.testing.assert_allclose(answers["standard"] / largest, expected / largest, atol=1e-5, rtol=0)
