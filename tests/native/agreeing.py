"""Native answers beside those of the reference, of nets whose numbers overflow too."""

from __future__ import annotations

import numpy as np

from onebit.errors import NotBinaryError
from onebit.native import InstructionSet, NotPlanned, make_plan
from onebit.packed import PackedNet
from onebit.runtime.running import batches


def reference(net: PackedNet, images: np.ndarray) -> np.ndarray | None:
    """Logits as float32, those that are not finite as they are; None where the sign of a NaN is asked for."""
    try:
        answer = [values[net.output] for _, values in batches(net, images, (net.output,))]
    except NotBinaryError:
        return None
    return np.concatenate(answer).astype(np.float32)


def assert_agrees(
    net: PackedNet, images: np.ndarray, expected: np.ndarray | None, isa: InstructionSet, *, parts: int = 1
) -> bool:
    """Fails unless the library gives the same bits, or refuses alike; False where it leaves the net to the reference.

    Args:
        expected: what `reference` says. parts: threads that share each step.
    """
    try:
        plan = make_plan(net, isa)
    except NotPlanned:
        return False
    plan.plan.batch = min(plan.plan.batch, 3)
    found, nan = plan.run(images, parts=parts)
    assert nan == (expected is None), isa.name
    if expected is not None:
        np.testing.assert_array_equal(_bits(found), _bits(expected), err_msg=isa.name)
    return True


def _bits(numbers: np.ndarray) -> np.ndarray:
    """Equal where both are NaN, and unequal where only one is -0."""
    return np.where(np.isnan(numbers), np.float32(np.nan), numbers).view(np.int32)
