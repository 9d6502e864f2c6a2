"""The kernels of AArch64 under qemu: the same bits as numpy on this machine."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest

from onebit.native import InstructionSet, NativePlan, make_plan
from onebit.native.abi import CallStruct, EpilogueOpStruct, InputStruct, OutputStruct, PlanStruct
from support.compiling import EMULATOR, emulated_program, needs_emulator
from support.covering import covering
from support.executors import reference
from support.kernel_nets import kernel_nets, scaled_net
from support.packed_nets import inputs_of

pytestmark = needs_emulator
POINTERS = {
    structure: [name for name, kind in structure._fields_ if kind is ctypes.c_void_p]
    for structure in (EpilogueOpStruct, PlanStruct, CallStruct, InputStruct, OutputStruct)
}


class Blob:
    """A plan and images as one piece of memory, with offsets as pointers."""

    def __init__(self, plan: NativePlan, images: np.ndarray) -> None:
        self.data = bytearray(64)  # so that no offset is 0, which means NULL
        self.offsets = {}
        for kept in plan.kept:
            is_array = isinstance(kept, np.ndarray)
            address = kept.ctypes.data if is_array else ctypes.addressof(kept)
            self.offsets[address] = self.put(kept.tobytes() if is_array else bytes(kept))
        for kept in plan.kept:
            if not isinstance(kept, np.ndarray):
                self.relocate(self.offsets[ctypes.addressof(kept)], kept._type_, len(kept))
        self.plan = self.put(bytes(plan.plan))
        self.relocate(self.plan, PlanStruct, 1)
        self.images = self.put(images.tobytes())
        self.head = np.array([len(self.data), self.plan, self.images, len(images)], np.int64)

    def put(self, data: bytes) -> int:
        offset = len(self.data)
        self.data += data + bytes(-len(data) % 64)
        return offset

    def relocate(self, offset: int, structure: type, count: int) -> None:
        for entry in (structure * count).from_buffer(self.data, offset):
            for name in POINTERS[structure]:
                if address := getattr(entry, name):
                    setattr(entry, name, self.offsets[address])


def instruction_sets(program: Path) -> list[InstructionSet]:
    listed = subprocess.run([str(EMULATOR), str(program)], text=True, capture_output=True, check=True).stdout
    return [
        InstructionSet(name, *(int(number) for number in numbers), run=lambda *_: 0)
        for name, *numbers in map(str.split, listed.splitlines())
    ]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs a plan with all kernels of AArch64."""
    return emulated_program("emulated.c", tmp_path_factory.mktemp("emulated"))


@pytest.mark.parametrize("name", covering(["portable", "neon"], heavy={"portable"}))
def test_every_net_has_the_bits_of_the_reference(program: Path, name: str, tmp_path: Path) -> None:
    """The portable kernels nightly; daily they run on this machine."""
    isas = instruction_sets(program)
    assert [isa.name for isa in isas] == ["portable", "neon"]
    index = [isa.name for isa in isas].index(name)
    files: list[Path] = []
    wanted = []
    for number, net in enumerate([*kernel_nets(), scaled_net(128, 5, 70), scaled_net(30, 3, 9)]):
        images = inputs_of(net, 5)
        wanted.append(reference(net, images))
        blob = Blob(make_plan(net, isas[index]), images)
        files += [tmp_path / f"{number}.plan", tmp_path / f"{number}.answer"]
        files[-2].write_bytes(blob.head.tobytes() + blob.data)
    subprocess.run([str(EMULATOR), str(program), str(index), *map(str, files)], check=True)
    for file, expected in zip(files[1::2], wanted, strict=True):
        assert expected is not None
        found = np.frombuffer(file.read_bytes(), np.float32).reshape(expected.shape)
        np.testing.assert_array_equal(found, expected, err_msg=f"{name}, net {file.stem}")
