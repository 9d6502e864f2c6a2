"""What runs packed nets here, and whether all give the bits of the reference, also where numbers overflow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from onebit.errors import FormatError, NotBinaryError
from onebit.native import InstructionSet, NotPlanned, instruction_sets, make_plan
from onebit.packed import PackedNet
from onebit.runtime.running import batches


def reference(net: PackedNet, images: np.ndarray) -> np.ndarray | None:
    """Logits as float32, including those that are not finite; None if the net takes the sign of a NaN or rounds it.

    Several outputs follow one another, as in the result of `NativePlan.run`.
    """
    try:
        parts = [values for _, values in batches(net, images, net.outputs)]
    except (NotBinaryError, FormatError) as error:
        if "NaN" not in str(error):
            raise
        return None
    outputs = [np.concatenate([part[name] for part in parts]).astype(np.float32) for name in net.outputs]
    return outputs[0] if len(outputs) == 1 else np.concatenate([output.reshape(-1) for output in outputs])


def assert_agrees(
    net: PackedNet, images: np.ndarray, expected: np.ndarray | None, isa: InstructionSet, *, parts: int = 1
) -> bool:
    """Fail unless the library gives the same bits or refuses as well; False if it has no plan for the net.

    Args:
        expected: the result of `reference`. parts: threads that share each kernel call.
    """
    try:
        plan = make_plan(net, isa)
    except NotPlanned:
        return False
    plan.plan.batch = min(plan.plan.batch, 3)
    found, nan = plan.run(images, parts=parts)
    assert nan == (expected is None), isa.name
    if expected is not None:
        np.testing.assert_array_equal(bits_of(found), bits_of(expected), err_msg=isa.name)
    return True


def bits_of(numbers: np.ndarray) -> np.ndarray:
    """Equal for two NaNs of any bits, unequal for 0 and -0."""
    return np.where(np.isnan(numbers), np.float32(np.nan), numbers).view(np.int32)


EXECUTORS = ["reference", *instruction_sets()]


@contextmanager
def chosen(executor: str) -> Iterator[None]:
    """Run nets and packed layers with one of EXECUTORS."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONEBIT_NATIVE", "0" if executor == "reference" else "1")
        patch.setenv("ONEBIT_ISA", "" if executor == "reference" else executor)
        yield
