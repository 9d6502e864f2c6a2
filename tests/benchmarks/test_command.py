"""`python -m benchmarks NAME`."""

from __future__ import annotations

import pytest

from benchmarks import BENCHMARKS
from benchmarks.__main__ import main


def test_without_a_name_it_lists_the_benchmarks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert ", ".join(BENCHMARKS) in capsys.readouterr().out


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == 0
    assert "--json" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["kernel"], "unknown benchmark 'kernel'; did you mean 'kernels'?"),
        (["startup", "--round", "1"], "unrecognized arguments: --round 1 (python -m benchmarks startup --help)"),
        (["startup", "--rounds", "x"], "argument --rounds: invalid int value: 'x'"),
        (["startup", "--rounds", "0"], "rounds must be 1 or more"),
        *(([name, "--seconds", "nan"], "must be positive") for name in ("augmentation", "kernels", "nets", "onnx")),
        (["nets", "--nets", "mlp-8bit", "--width", "nan"], "width must be positive, got nan"),
        (["training-step", "--width", "-1", "--variants", "sign"], "width must be positive, got -1"),
        (["training-step", "--variants", "sign,xnor", "--compile"], "xnor: no compiled form; known: sign, stochastic"),
        (["fused-step", "--batch", "1"], "BatchNorm needs a batch of 2 or more, got 1"),
        (["mnist-time", "--cold", "--targets", "97", "98"], "97: no limit for a cold process"),
    ],
)
def test_a_wrong_command_is_one_line(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
