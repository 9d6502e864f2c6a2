"""The input coding."""

from __future__ import annotations

import pytest
import torch

from onebit.errors import UsageError
from onebit.layers import InputCoding, Normalize


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_the_integer_coding_is_exact_and_keeps_its_input(dtype: torch.dtype) -> None:
    pixels = torch.arange(256, dtype=torch.int64).view(1, 1, 16, 16).to(dtype)
    before = pixels.clone()
    coded = InputCoding()(pixels)
    assert coded.flatten().tolist() == [2 * x - 255 for x in range(256)]
    assert torch.equal(coded.bfloat16().float(), coded)  # exact in bf16 too
    assert torch.equal(pixels, before)


def test_standardize_is_per_channel_and_travels_in_the_state_dict() -> None:
    mean, std = [10.0, 128.0], [2.0, 64.0]
    coding = InputCoding("standardize", mean=mean, std=std)
    x = torch.arange(96, dtype=torch.uint8).view(3, 2, 4, 4)
    coded = coding(x)
    for channel in range(2):
        expected = (x[:, channel].double() - mean[channel]) / std[channel]
        torch.testing.assert_close(coded[:, channel].double(), expected)
    assert list(coding.state_dict()) == ["mean", "std"]
    assert list(InputCoding().state_dict()) == []


def test_mean_and_std_of_pixels_from_0_to_1_take_a_scale() -> None:
    x = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    coded = InputCoding("standardize", mean=(0.1307,), std=(0.3081,), scale=255)(x)
    torch.testing.assert_close(coded, (x / 255 - 0.1307) / 0.3081)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"coding": "standard"}, "coding"),
        ({"coding": "standardize"}, "mean"),
        ({"coding": "standardize", "mean": [1.0]}, "std"),
        ({"coding": "standardize", "mean": [0.1307], "std": [0.3081]}, "scale"),
        ({"mean": [128.0], "std": [64.0]}, "mean"),
    ],
)
def test_a_wrong_coding_is_refused(arguments: dict, name: str) -> None:
    with pytest.raises(UsageError, match=name):
        InputCoding(**arguments)


def test_normalize_refuses_pixels_whose_mean_is_of_0_to_255() -> None:
    assert Normalize((0.5, 0.4, 0.3), (0.2, 0.2, 0.2))(torch.zeros(2, 3, 4, 4)).shape == (2, 3, 4, 4)
    with pytest.raises(UsageError, match="mean"):
        Normalize(120.0, 60.0)(torch.zeros(2, 1, 4, 4, dtype=torch.uint8))
