"""The input coding."""

from __future__ import annotations

import pytest
import torch

from onebit.errors import UsageError
from onebit.layers import InputCoding


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32])
def test_the_integer_coding_is_exact_and_leaves_its_input_alone(dtype: torch.dtype) -> None:
    pixels = torch.arange(256, dtype=torch.int64).view(1, 1, 16, 16).to(dtype)
    before = pixels.clone()
    coded = InputCoding()(pixels)
    assert coded.flatten().tolist() == [2 * x - 255 for x in range(256)]
    assert torch.equal(coded.bfloat16().float(), coded)  # exact in bf16 too
    assert torch.equal(pixels, before)


def test_standardise_is_per_channel_and_travels_in_the_state_dict() -> None:
    mean, std = [10.0, 128.0], [2.0, 64.0]
    coding = InputCoding("standardise", mean=mean, std=std)
    x = torch.randint(0, 256, (3, 2, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    coded = coding(x)
    for channel in range(2):
        expected = (x[:, channel].double() - mean[channel]) / std[channel]
        torch.testing.assert_close(coded[:, channel].double(), expected)
    assert list(coding.state_dict()) == ["mean", "std"]
    assert list(InputCoding().state_dict()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"coding": "standardize"}, "unknown input coding 'standardize'; did you mean 'standardise'?"),
        ({"coding": "standardise"}, "needs mean and positive std"),
        ({"coding": "standardise", "mean": [1.0], "std": [0.0]}, "needs mean and positive std"),
        ({"coding": "standardise", "mean": [1.0], "std": [1.0, 2.0]}, "needs mean and positive std"),
    ],
)
def test_a_wrong_coding_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        InputCoding(**arguments)
    assert message in str(caught.value)
