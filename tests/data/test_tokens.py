"""Token files: the tokens of all texts one after the other, on disk, trained on row by row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import onebit
from onebit.data import tokens
from onebit.errors import DataError

TEXTS = ["abcab", "", "cc\nb\na", "bb"]


class Letters:
    """A token for each character; what `tokenizers` returns has `ids`."""

    eos_token_id = 9

    def __init__(self, *, size: int = 10, objects: bool = False) -> None:
        self.size, self.objects = size, objects

    def get_vocab(self) -> dict[str, int]:
        return {str(n): n for n in range(self.size)}

    def encode(self, text: str, add_special_tokens: bool = True) -> Any:
        assert not add_special_tokens
        ids = ["\nabc".index(letter) for letter in text]
        return type("Encoding", (), {"ids": ids}) if self.objects else ids


def expected(end: int | None) -> list[int]:
    found = []
    for text in TEXTS:
        found += Letters().encode(text, False) + ([] if end is None else [end])
    return found


@pytest.mark.parametrize("form", ["texts", "rows", "files"])
@pytest.mark.parametrize("end", [9, 5])
def test_texts_files_and_rows_give_the_same_tokens(tmp_path: Path, form: str, end: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(tokens, "_PIECE", 2)  # a file is encoded line by line
    files = [tmp_path / f"{n}.txt" for n in range(len(TEXTS))]
    for file, text in zip(files, TEXTS, strict=True):
        file.write_text(text)
    texts: Any = {"texts": iter(TEXTS), "rows": [{"body": text} for text in TEXTS], "files": files}[form]
    options = {} if end == 9 else {"end": end}
    found = onebit.write_tokens(texts, Letters(), tmp_path / "t.npy", length=4, column="body", **options)
    whole = expected(end)
    assert found.ravel().tolist() == whole[: len(whole) // 4 * 4]
    assert found.shape[1] == 4
    assert isinstance(found, np.memmap)
    assert not found.flags.writeable


def test_the_type_fits_the_vocabulary_and_a_lone_file_may_be_given(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("abc" * 9)
    for size, kind in ((1 << 16, np.uint16), ((1 << 16) + 1, np.uint32)):
        tokenizer = Letters(size=size, objects=True)
        tokenizer.eos_token_id = None  # type: ignore[assignment]
        found = onebit.write_tokens(tmp_path / "x.txt", tokenizer, tmp_path / "t.npy", length=3)
        assert (found.dtype, found.tolist()) == (kind, [[1, 2, 3]] * 9)


def test_too_few_tokens_write_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="tokens"):
        onebit.write_tokens(["ab"], Letters(), tmp_path / "t.npy", length=4)
    assert not any(tmp_path.iterdir())


class Bigrams(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rows, self.head = onebit.BinaryEmbedding(10, 8, weight_quantizer="xnor"), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rows(x))


def test_training_goes_on_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    """To the bits of a training without a stop, which sees the tokens of an array in memory."""
    rows = onebit.write_tokens(["abcab" * 40], Letters(), tmp_path / "t.npy", length=5)
    nets = []
    for n, data in enumerate((rows, rows, rows.astype(np.int64), rows.astype(np.uint8))):
        net = Bigrams()
        optimizer = onebit.clip_latents_(torch.optim.AdamW(onebit.latent_groups(net, lr=0.1)))
        options: dict[str, Any] = {"steps": 13, "steps_per_epoch": 3, "batch_size": 4, "loss": "next_token"}
        if n == 0:
            onebit.fit(net, data, optimizer, folder=tmp_path / "run", on_epoch=lambda row: row.epoch < 2, **options)
            continue
        folder: Any = {"folder": tmp_path / "run", "resume": True} if n == 1 else {}
        history = onebit.fit(net, data, optimizer, validation=None, **folder, **options)
        assert [row.step for row in history.rows] == [3, 6, 9, 12, 13]
        nets.append(net.state_dict())
    assert all(torch.equal(x, net[name]) for name, x in nets[0].items() for net in nets)
    assert all(row.tokens_per_second == pytest.approx(5 * row.images_per_second) for row in history.rows)
