"""The verbs after `train`, on a small finished run."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from onebit.data import load_dataset
from onebit.evaluation.counts import summary
from onebit.runs.plain_state import save_plain
from onebit.runs.run import open_run
from onebit.runtime import load, run
from support.command_line import SMALL, Onebit


def stored_result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def test_evaluate_agrees_with_the_result_of_training(onebit: Onebit, run_folder: Path) -> None:
    for mode in ("binary", "latent"):
        done = onebit("evaluate", run_folder, "--weights", mode, "--json")
        assert done.status == 0
        keys = ("dataset", "split", "weights", "correct", "count", "accuracy", "error", "loss", "bn")
        assert {*keys} <= done.json.keys()
        assert done.json["correct"] == stored_result(run_folder)["test"][mode]["correct"]
        assert done.json["weights"] == mode


def test_evaluate_shows_each_class(onebit: Onebit, run_folder: Path, packed_file: Path) -> None:
    stored = json.loads((run_folder / "result.json").read_text())
    for source in (run_folder, packed_file):
        found = onebit("evaluate", source, "--json").json
        assert found["class_f1"] == stored["test"]["binary"]["class_f1"]
        assert found["confusion"] == stored["test"]["binary"]["confusion"]
        assert found["classes"] == stored["classes"]
        first, head, *rows, _ = onebit("evaluate", source, "--classes").out.splitlines()
        assert f"macro F1 {found['f1']:.4f}" in first
        assert head.split()[:3] == ["class", "accuracy", "F1"]
        assert [row.split()[0] for row in rows] == stored["classes"]
        assert sum(int(cell) for row in rows for cell in row.split()[3:]) == found["count"]
    assert len(onebit("evaluate", run_folder).out.splitlines()) == 1


def test_a_training_reports_the_loss_of_evaluate(onebit: Onebit, tmp_path: Path) -> None:
    """Label smoothing is of the training alone; the mean of several draws has no margins, so no hinge loss."""
    for loss, smoothing, names in (("cross_entropy", "0.2", ["cross_entropy"] * 2), ("squared_hinge", "0", [])):
        flags = ["--loss", loss, "--label_smoothing", smoothing, "--epochs", "0.2", "--precision", "fp32"]
        folder = tmp_path / loss
        trained = onebit("train", "digits-smoke", *SMALL, *flags, "--out", folder, "--json").json
        found = onebit("evaluate", folder, "--json").json
        assert trained["test"]["binary"]["loss"] == pytest.approx(found["loss"], rel=1e-6)
        drawn = onebit("evaluate", folder, "--weights", "ensemble:2", "--json").json
        assert [found["loss_name"], drawn["loss_name"]] == (names or ["squared_hinge", "cross_entropy"])


def test_unsettled_batchnorm_statistics_are_reestimated(onebit: Onebit, tmp_path: Path) -> None:
    few = onebit("train", "digits-smoke", *SMALL, "--epochs", "0.1", "--batch_size", "100", "--out", tmp_path)
    assert few.status == 0
    whole = onebit("evaluate", tmp_path, "--json").json
    stopped = onebit("evaluate", tmp_path / "last.ckpt", "--json").json
    assert (whole["bn"], stopped["bn"]) == ("trained", "reestimate")
    assert stopped["correct"] == whole["correct"]


def test_evaluate_random_draws(onebit: Onebit, run_folder: Path) -> None:
    one = [onebit("evaluate", run_folder, "--weights", "sample", "--seed", seed, "--json").json for seed in (0, 0, 1)]
    assert one[0] == one[1]
    assert one[0]["loss"] != one[2]["loss"]
    assert one[0]["bn"] == "reestimate"
    assert [each["seed"] for each in one] == [0, 0, 1]
    several = onebit("evaluate", run_folder, "--weights", "ensemble:3", "--json").json
    assert (several["weights"], several["seed"]) == ("ensemble:3", 0)
    drawn = onebit("evaluate", run_folder, "--weights", "ensemble:2", "--seed", "4").out
    assert "with ensemble:2 weights, seed 4, BatchNorm re-estimated" in drawn
    assert "seed" not in onebit("evaluate", run_folder, "--json").json
    assert several["correct"] > min(one[0]["correct"], one[2]["correct"])


def test_inspect_of_latents_and_of_a_plain_export(onebit: Onebit, run_folder: Path, tmp_path: Path) -> None:
    latent = onebit("inspect", run_folder, "--json").json
    assert latent["verdict"] == "clipped"
    assert latent["facts"]["recipe"]["name"] == "digits-smoke"
    assert latent["facts"]["epoch"] in (1, 2)
    assert "latent" in onebit("inspect", run_folder).out
    for file in ("plain.pth", "net.safetensors"):
        path = tmp_path / file
        exported = onebit("export", run_folder, "--to", "torch", "-o", path, "--json")
        assert exported.status == 0
        assert {"file", "files", "bytes", "checked", "comparison"} <= exported.json.keys()
        plain = onebit("inspect", path, "--json").json
        assert plain["verdict"] == "binary"
        layer = plain["layers"][0]
        assert layer["minus_one"] + layer["plus_one"] == 784 * 32
        assert layer["between"] == layer["outside"] == 0
        assert layer["distance"] == 0
        assert sum(layer["histogram"]) == 784 * 32


def test_inspect_counts_what_summary_counts(onebit: Onebit, run_folder: Path, tmp_path: Path) -> None:
    """No statistics of a BatchNorm, of a run and of a weight file that says nothing about its net."""
    whole = summary(open_run(run_folder).model)
    expected = {
        "parameters": whole.total("binary_weights") + whole.total("real_parameters"),
        "bytes_at_1_bit": whole.total("bytes_packed"),
        "bytes_at_32_bit": whole.total("bytes_float32"),
    }
    assert expected["parameters"] == 784 * 32 + 32 * 10 + 2 * (32 + 10)
    save_plain(open_run(run_folder).model, tmp_path / "plain.pth")
    for path in (run_folder, tmp_path / "plain.pth"):
        assert onebit("inspect", path, "--json").json["total"].items() >= expected.items()


def test_a_real_net_is_inspected_but_not_packed(onebit: Onebit, real_folder: Path, tmp_path: Path) -> None:
    picture = tmp_path / "weights.png"
    assert onebit("inspect", real_folder, "--plot", picture, "--json").json["verdict"] in ("real", "clipped")
    assert "latent" not in onebit("inspect", real_folder).out
    with Image.open(picture) as image:
        assert image.size[0] > 300
    assert "packed" in onebit("inspect", "mnist-mlp", "--plot", picture).line
    done = onebit("verify", real_folder, "--json")
    assert (done.status, done.json["ok"]) == (1, False)
    assert onebit("pack", real_folder, "-o", tmp_path / "net.1bit").status == 2
    assert not (tmp_path / "net.1bit").exists()


def test_inspect_of_a_packed_net_with_real_ends_shows_and_counts_them(onebit: Onebit) -> None:
    found = onebit("inspect", "resnet20-cifar10-signs", "--json").json
    real = {layer["name"]: layer["shape"] for layer in found["layers"] if layer["verdict"] == "real"}
    assert real == {"conv1": [16, 27], "fc": [10, 64]}
    assert [found["layers"][index]["bits"] for index in (0, 1, -1)] == [32, 1, 32]
    assert found["total"]["weights"] - found["total"]["binary_weights"] == 16 * 27 + 10 * 64
    assert found["verdict"] == "mixed"
    binary = onebit("inspect", "mnist-mlp", "--json").json
    assert (binary["verdict"], binary["facts"]["certificate"]["label_mismatches"]) == ("binary", 0)
    whole = binary["total"]
    assert whole["weights"] == whole["binary_weights"] == 784 * 512 + 512 * 512 + 512 * 10


def test_inspect_foreign_files(onebit: Onebit, tmp_path: Path) -> None:
    signs = torch.ones(4, 6)
    signs[:, ::2] = -1
    half = torch.linspace(-2, 2, 24).view(4, 6)
    wrapped = {"state_dict": {"module.model.fc.weight": signs, "module.model.out.weight": half}, "epoch": 7}
    torch.save(wrapped, tmp_path / "foreign.pth")
    found = onebit("inspect", tmp_path / "foreign.pth", "--json").json
    assert found["verdict"] == "mixed"
    assert [layer["name"] for layer in found["layers"]] == ["fc.weight", "out.weight"]
    assert [layer["verdict"] for layer in found["layers"]] == ["binary", "real"]
    assert found["facts"]["epoch"] == 7
    ternary = signs.clone()
    ternary[0, 0] = 0
    for weight, verdict in (
        (signs * torch.rand(4, 1).clamp(0.1), "binary"),
        (torch.tensor([[torch.inf, torch.nan]]), "real"),
        (torch.tensor([[1e300, 2, 3]], dtype=torch.float64), "real"),
        (ternary, "clipped"),
    ):
        save_file({"fc.weight": weight}, tmp_path / "a.safetensors")
        found = onebit("inspect", tmp_path / "a.safetensors", "--json").json
        assert found["verdict"] == verdict
    assert "ternary" in found["warnings"][0]


def test_verify_proves_every_claim(onebit: Onebit, run_folder: Path) -> None:
    done = onebit("verify", run_folder, "--json")
    assert done.status == 0
    assert done.json["ok"] is True
    names = [step["name"] for step in done.json["steps"]]
    assert names == ["latent weights", "binarize", "binary accuracy", "binarized weights", "reload", "packed"]
    assert "2,000 of 2,000 predictions equal" in done.json["steps"][4]["detail"]
    lines = onebit("verify", run_folder).out.splitlines()[:-1]
    assert [line.partition(":")[0].split(maxsplit=1) for line in lines] == [["ok", name] for name in names]


@pytest.mark.parametrize("value", [1.5, float("nan")])
def test_verify_finds_latents_out_of_range(onebit: Onebit, run_folder: Path, tmp_path: Path, value: float) -> None:
    state = load_file(run_folder / "best.safetensors")
    state["linear1.weight"][3, 5] = value
    save_file(state, tmp_path / "best.safetensors")
    (tmp_path / "recipe.yaml").write_text((run_folder / "recipe.yaml").read_text())
    done = onebit("verify", tmp_path, "--json")
    assert done.status == 1
    assert done.steps["latent weights"][0] is False


def test_pack_reports_size_and_certificate(onebit: Onebit, run_folder: Path, packed_file: Path, tmp_path: Path) -> None:
    done = onebit("pack", run_folder, "-o", tmp_path / "net.1bit", "--json")
    assert done.status == 0
    assert {"file", "bytes", "weight_bits", "ratio_to_float32", "certificate"} <= done.json.keys()
    assert done.json["weight_bits"] == 784 * 32 + 32 * 10
    assert done.json["bytes"] == (tmp_path / "net.1bit").stat().st_size
    assert (tmp_path / "net.1bit").read_bytes() == packed_file.read_bytes()
    certificate = done.json["certificate"]
    assert (certificate["dataset"], certificate["split"], certificate["count"]) == ("mnist-sample", "test", 2000)
    assert certificate["label_mismatches"] == 0


def test_pack_of_one_random_draw(onebit: Onebit, run_folder: Path, tmp_path: Path) -> None:
    done = onebit("pack", run_folder, "-o", tmp_path / "draw.1bit", "--weights", "sample", "--seed", 3, "--json")
    assert done.status == 0
    assert (done.json["certificate"]["weights"], done.json["certificate"]["seed"]) == ("sample", 3)
    assert onebit("verify", tmp_path / "draw.1bit", "--source", run_folder).status == 0
    assert "-o NET.1bit --weights sample --seed 3" in onebit("inspect", tmp_path / "draw.1bit").out
    # the draw that ships has its own BatchNorm statistics, as the same draw has in evaluation
    drawn = onebit("evaluate", run_folder, "--weights", "sample", "--seed", 3, "--json").json
    assert done.json["certificate"]["correct"] == drawn["correct"]


def test_pack_and_export_never_overwrite_a_training(onebit: Onebit, run_folder: Path, tmp_path: Path) -> None:
    for name in ("best.safetensors", "final.safetensors"):
        before = (run_folder / name).read_bytes()
        assert "would overwrite" in onebit("export", run_folder, "--to", "torch", "-o", run_folder / name).line
        assert "would overwrite" in onebit("pack", run_folder, "-o", run_folder / name).line
        assert (run_folder / name).read_bytes() == before


def test_predict_takes_folders_and_patterns(
    onebit: Onebit, packed_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = load_dataset("mnist-sample").test.images[:3]
    folder = tmp_path / "digits"
    (folder / "more").mkdir(parents=True)
    files = [folder / "0.PNG", folder / "more" / "1.bmp", folder / "more" / "[2].png"]
    for file, image in zip(files, images, strict=True):
        Image.fromarray(image[0]).save(file)
    (folder / "notes.txt").write_text("no image")
    os.mkfifo(folder / "pipe.png")  # opening it would wait for its writer
    labels = run(load(packed_file), images).argmax(1).tolist()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(files[0].read_bytes())))
    for words, indices in (
        ([folder], [0, 1, 2]),
        ([folder / "more" / "*"], [1, 2]),
        ([folder / "**" / "*.png"], [2]),
        ([files[2]], [2]),  # brackets in a name are no pattern
        ([files[1], "-"], [1, 0]),
    ):
        done = onebit("predict", packed_file, *words, "--json")
        found, names = done.json["predictions"], [str(files[index]) for index in indices]
        assert done.status == 0
        assert [one["file"] for one in found] == [*names[:1], "-"] if "-" in words else names
        assert [one["label"] for one in found] == [labels[index] for index in indices]
    assert "standard input" in onebit("predict", packed_file, "-").line  # it was read
    assert "no images" in onebit("predict", packed_file, tmp_path / "*.png").line


def test_weights_of_another_net_are_refused(onebit: Onebit, run_folder: Path, tmp_path: Path) -> None:
    save_file({"fc.weight": torch.ones(3, 3)}, tmp_path / "other.safetensors")
    assert "no recipe" in onebit("evaluate", tmp_path / "other.safetensors").line
    refused = onebit("evaluate", tmp_path / "other.safetensors", "--recipe", "digits-smoke")
    assert "belongs to another net" in refused.line
    (tmp_path / "recipe.yaml").write_text((run_folder / "recipe.yaml").read_text().replace("- 32", "- 16"))
    state = load_file(run_folder / "best.safetensors")
    save_file(state, tmp_path / "best.safetensors")
    refused = onebit("evaluate", tmp_path)
    assert "linear1.weight" in refused.line


def test_what_holds_no_dense_tensors_by_name_is_refused(onebit: Onebit, tmp_path: Path) -> None:
    for content in ({"model": torch.nn.Linear(2, 2)}, {"fc.weight": torch.eye(3).to_sparse()}, {3: torch.eye(3)}):
        torch.save(content, tmp_path / "object.pth")
        assert "object.pth" in onebit("inspect", tmp_path / "object.pth").line
