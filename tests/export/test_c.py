"""The files of `--to c`: what they hold, which compilers take them, and the report."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

import onebit
from onebit.errors import OnebitError, UsageError
from onebit.export import CannotRun, export_net
from onebit.export.c import size, target
from onebit.packed import AveragePool, Conv, Flatten, MaxPool, PackedNet, RealDense, Repeat
from support.c_programs import exported, needs
from support.packed_nets import IMAGE_NETS, Builder, inputs_of, make_packed_mlp, with_names


def integers_only() -> PackedNet:
    """Signs in, sums out."""
    b = Builder((1, 6, 6))
    b.add(Conv, **b.signs(8, 9), kernel=(3, 3), padding=(1, 1, 1, 1))
    b.add(MaxPool, kernel=(2, 2), stride=(2, 2))
    b.threshold(8)
    b.add(Flatten)
    b.dense(5)
    return b.net()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The exported folders of a net of reals and of one of integers."""
    folder = tmp_path_factory.mktemp("exported")
    nets = {"real": IMAGE_NETS["real"](0), "integers": integers_only()}
    return {name: exported(net, folder / name) for name, net in nets.items()}


def errors_of(folder: Path, *command: str) -> str:
    """What a compiler prints for net.c; "" if it compiles."""
    flags = ("-Wall", "-Wextra", "-Werror", "-ffp-contract=off", "-fsyntax-only")
    return subprocess.run([*command, *flags, str(folder / "net.c")], capture_output=True, text=True).stderr


@pytest.mark.parametrize(
    ("compiler", "flag"),
    [
        *(("gcc", "-ffast-math"), ("gcc", "-funsafe-math-optimizations"), ("gcc", "-ffinite-math-only")),
        *(("gcc", "-freciprocal-math"), ("clang", "-Ofast"), ("clang", "-ffinite-math-only")),
        ("gcc", "-D_M_FP_FAST"),  # what MSVC defines with /fp:fast
    ],
)
def test_fast_math_is_rejected_for_nets_of_floats(compiler: str, flag: str, folders: dict[str, Path]) -> None:
    needs(compiler)
    assert "#error" in errors_of(folders["real"], compiler, flag)
    assert errors_of(folders["integers"], compiler, flag) == ""


def test_floats_with_excess_precision_are_rejected(folders: dict[str, Path]) -> None:
    needs("gcc")
    if platform.machine() != "x86_64":
        pytest.skip("the processor has no x87")
    assert "#error" in errors_of(folders["real"], "gcc", "-mfpmath=387", "-ffreestanding")


@pytest.mark.parametrize(
    "command",
    [
        ("gcc", "-march=sapphirerapids"),
        ("aarch64-linux-gnu-gcc", "-mcpu=cortex-a76"),
        ("arm-none-eabi-gcc", "-mcpu=cortex-m55", "-mfloat-abi=hard"),
    ],
)
def test_processors_with_half_floats_compile(command: tuple[str, ...], folders: dict[str, Path]) -> None:
    """FLT_EVAL_METHOD is 16 there in GNU dialects."""
    needs(command[0])
    if subprocess.run([*command, "-E", "-"], input=b"", capture_output=True).returncode:
        pytest.skip(f"this {command[0]} does not support {command[1]}")
    assert errors_of(folders["real"], *command, "-std=gnu99") == ""


@pytest.mark.parametrize("compiler", ["clang", "arm-none-eabi-gcc"])
def test_compilers_add_only_calls_that_the_readme_names(
    compiler: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    needs(compiler, "nm")
    readme = (folders["real"] / "README.md").read_text()
    source, made = str(folders["real"] / "net.c"), str(tmp_path / "net.o")
    subprocess.run([compiler, "-O2", "-std=c99", "-ffp-contract=off", "-c", source, "-o", made], check=True)
    names = subprocess.check_output(["nm", "-u", made], text=True).split()
    called = {name for name in names if name != "U" and not name.startswith("__aeabi")}
    assert all(f"`{name}`" in readme for name in called)


def has_floats(file: Path) -> bool:
    text = re.sub(r"/\*.*?\*/", "", file.read_text(), flags=re.DOTALL)
    return re.search(r"\b(float|double)\b", text) is not None


def test_nets_of_integers_have_no_floats(folders: dict[str, Path], tmp_path: Path) -> None:
    assert not any(has_floats(folders["integers"] / name) for name in ("net.c", "net.h", "net_weights.h"))
    assert "int32_t *output" in (folders["integers"] / "net.h").read_text()
    b = Builder((3, 9, 9), coding="values")
    b.requantize(least=-128, most=127)
    b.add(Conv, **b.signs(8, 27), kernel=(3, 3))
    b.requantize()
    assert not has_floats(exported(b.net(), tmp_path / "rounded") / "net.c")
    assert has_floats(folders["real"] / "net.c")


def test_the_native_library_includes_the_same_functions() -> None:
    folder = Path(onebit.__file__).parent / "native"
    used = "".join(path.read_text() for path in (folder / "csrc").glob("*.[ch]"))
    for name in ("numbers.h", "tables.h"):
        assert f'#include "../plain/{name}"' in used


def test_names_cannot_leave_their_strings_and_comments(tmp_path: Path) -> None:
    needs("cc")
    hostile = ('"};int x[', "*/ int main", "/* ??/", "\\", "%s%n", "é√", "#include", "'", "??/??/", "a" * 150)
    net = make_packed_mlp((12, 70, 65, 10))
    spec = replace(net.input, meaning="*/ # ??/ \\")
    net = replace(net, name="*/ int y; /* \\ ??/ é", classes=hostile, inputs={"input": spec})
    folder = exported(net, tmp_path / "net")
    (folder / "main.c").write_text(
        '#include <stdio.h>\n#include "net.h"\n'
        "int main(void) { for (int k = 0; k < NET_CLASS_COUNT; k++) puts(net_classes[k]); return 0; }\n"
    )
    subprocess.run(["make", "-s", "-C", str(folder)], check=True)
    assert subprocess.check_output([str(folder / "net")]).decode("utf-8").splitlines() == list(hostile)
    for file in folder.glob("*.[ch]"):
        file.read_bytes().decode("ascii")


def test_values_of_any_name_get_names_in_c(tmp_path: Path) -> None:
    """Names that are keywords of C, or differ only in characters that it does not allow."""
    b = Builder((4, 4, 4))
    for _ in range(4):
        b.add(Conv, **b.signs(4, 4, scale=True), kernel=(1, 1))
    net = with_names(b.net(), ("int", "a.b", "a-b", "0"))
    assert export_net(net, "c", tmp_path / "net").comparison is not None


def test_the_program_fails_on_cut_inputs_and_unwritten_outputs(tmp_path: Path) -> None:
    needs("cc", "make")
    folder = exported(make_packed_mlp(), tmp_path / "net")
    subprocess.run(["make", "-s", "-C", str(folder)], check=True)
    program = str(folder / "net")
    done = subprocess.run([program], input=bytes(12 + 5), capture_output=True)
    assert (done.returncode, len(done.stdout.splitlines())) == (1, 1)
    assert done.stderr == b"5 bytes are left, an input has 12\n"
    empty = subprocess.run([program], input=b"", capture_output=True)
    assert (empty.returncode, empty.stdout) == (0, b"")
    if Path("/dev/full").exists():
        with open("/dev/full", "wb") as full:
            done = subprocess.run([program], input=bytes(12), stdout=full, stderr=subprocess.PIPE)
        assert (done.returncode, done.stderr) == (1, b"cannot write the outputs\n")


def test_the_headers_of_two_nets_do_not_compile_together(folders: dict[str, Path]) -> None:
    needs("cc")

    def errors(*names: str) -> str:
        lines = "".join(f'#include "{folders[name] / "net.h"}"\n' for name in names)
        command = ["cc", "-std=c99", "-Wall", "-Werror", "-fsyntax-only", "-x", "c", "-"]
        return subprocess.run(command, input=lines, capture_output=True, text=True).stderr

    assert errors("real", "real") == ""
    assert "#error" in errors("real", "integers")


def test_an_arduino_library_compiles_as_c_plus_plus(tmp_path: Path) -> None:
    needs("g++")
    made = export_net(make_packed_mlp(), "c", tmp_path / "lib", layout="arduino")
    assert made.comparison is None or made.comparison.bit_exact
    names = {str(path.relative_to(tmp_path / "lib")) for path in made.files}
    assert names == {
        *("README.md", "library.properties", "library.json", "examples/run/run.ino"),
        *("src/net.h", "src/net.c", "src/net_weights.h"),
    }
    (tmp_path / "Arduino.h").write_text(
        "struct { void begin(long); void print(...); void println(); } Serial;\n"
        "unsigned long micros(); void delay(long);\n"
    )
    include = ["-include", str(tmp_path / "Arduino.h"), f"-I{tmp_path / 'lib' / 'src'}"]
    sketch = str(tmp_path / "lib" / "examples" / "run" / "run.ino")
    subprocess.run(["g++", "-Wall", "-Werror", "-fsyntax-only", *include, "-x", "c++", sketch], check=True)


# ---------------------------------------------------------------------------------------------------------- the report
def test_the_report_measures_flash_and_memory(tmp_path: Path) -> None:
    needs("arm-none-eabi-gcc", "cc", "make")
    lines = export_net(make_packed_mlp(), "c", tmp_path / "net", report=True).report.splitlines()
    flash, static, stack = size.linked(tmp_path / "net")
    assert lines[0].startswith(f"{12 * 70 + 70 * 65 + 65 * 10:,} ")
    assert f" {flash:,} bytes" in lines[1]
    assert all(f" {number:,} " in lines[2] for number in (static + stack, static, stack))
    assert lines[3] == "  fc0: dense 12 -> 70; affine0: affine; relu0: relu: 840 MACs"
    declared = re.search(r"([\d,]+) bytes of memory", (tmp_path / "net" / "net.h").read_text())
    assert declared is not None
    assert declared[1] == f"{static:,}"


def broken_tool(name: str, message: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a tool that prints two lines and fails in front of the others."""
    path = folder / "bin" / name
    path.parent.mkdir()
    path.write_text(f"#!/bin/sh\necho {message} >&2\necho more >&2\nexit 1\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.parametrize("tool", ["arm-none-eabi-gcc", "arm-none-eabi-size"])
def test_a_compiler_that_cannot_link_measures_nothing(
    tool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs("arm-none-eabi-gcc")
    broken_tool(tool, "cannot read spec file nano.specs", tmp_path, monkeypatch)
    report = export_net(make_packed_mlp(), "c", tmp_path / "net", report=True).report
    assert re.search(r"flash: [\d,]+ bytes of constants.*nano\.specs\n", report)
    assert "more" not in report


# --------------------------------------------------------------------------------------------------------- comparison
def test_without_compilers_the_files_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    net = make_packed_mlp()
    made = export_net(net, "c", tmp_path / "net", report=True)
    assert made.comparison is None
    assert "make" in made.not_compared
    assert "arm-none-eabi-gcc is not installed" in made.report
    with pytest.raises(CannotRun):
        target.run(net, tmp_path / "net", inputs_of(net, 1))


def test_without_a_c_library_the_files_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("make")
    broken_tool("cc", "no stdio.h", tmp_path, monkeypatch)
    made = export_net(IMAGE_NETS["sign"](0), "c", tmp_path / "net")
    assert made.comparison is None
    assert "no stdio.h" in made.not_compared


def test_a_program_that_does_not_compile_is_an_error(tmp_path: Path) -> None:
    needs("cc", "make")
    net = make_packed_mlp()
    folder = exported(net, tmp_path / "net")
    (folder / "main.c").write_text("#error broken\n")
    with pytest.raises(OnebitError, match="broken"):
        target.run(net, folder, inputs_of(net, 1))


def test_a_shell_for_another_processor_compares_with_the_native_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs("cc", "make")
    other = {"CC": "cc-of-another-processor", "CFLAGS": "-mcpu=other", "LDFLAGS": "-T other.ld", "MAKEFLAGS": "-e -k"}
    for name, value in other.items():
        monkeypatch.setenv(name, value)
    made = export_net(IMAGE_NETS["sign"](0), "c", tmp_path / "net").comparison
    assert made is not None
    assert made.bit_exact


def test_without_a_temporary_folder_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(OnebitError):
        export_net(IMAGE_NETS["sign"](0), "c", tmp_path / "net")
    assert not (tmp_path / "net").exists()


def test_sums_beyond_those_of_c_are_rejected(tmp_path: Path) -> None:
    b = Builder((1, 40, 1000))
    b.add(Flatten)
    b.add(RealDense, weight=b.real(2, 40_000))
    with pytest.raises(UsageError, match="32,768"):
        export_net(b.net(), "c", tmp_path / "net")
    b = Builder((1, 4096, 4))
    for _ in range(2):
        b.add(Repeat, times=(1, 1, 64))
        b.add(AveragePool, kernel=(2048, 1), sums=1)
    b.add(AveragePool, kernel=(1, 64))
    with pytest.raises(UsageError, match="32 bits"):
        export_net(b.net(), "c", tmp_path / "net")
    assert list(tmp_path.iterdir()) == []
