"""Fixtures that several folders of tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from onebit.packed import Certificate, LayerProof
from support.rank_agents import Agents, warm_agents

# before anything imports torch: the nets of the tests are tiny, and results do not depend on the number of cores
os.environ.setdefault("OMP_NUM_THREADS", "1")

# the same examples in every run, however slow the machine; `pytest --hypothesis-profile=default` draws others, and more
settings.register_profile("same", settings(derandomize=True, database=None, deadline=None, max_examples=50))
settings.load_profile("same")

CERTIFICATE = Certificate(
    onebit="0.1.0",
    dataset="mnist",
    split="test",
    count=10_000,
    weights="binary",
    correct=9_876,
    label_mismatches=0,
    max_logit_difference=1.5e-5,
    bit_exact=False,
    source="0123456789abcdef" * 4,
    recipe="mnist-fast",
    layers=(LayerProof(name="fc0", proof="every integer", integers=399_841, mismatches=0),),
)


@pytest.fixture
def certificate() -> Certificate:
    """A certificate with every field set but the seed."""
    return CERTIFICATE


@pytest.fixture
def no_ink(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are made of all their parts and left blank, for tests of pages: rendering is most of their time."""
    from matplotlib.figure import Figure

    def save(figure: Figure, path: Path, *, metadata: dict[str, str], **_: Any) -> None:
        text = PngInfo()
        text.add_text("Comment", metadata["Comment"])
        Image.new("RGB", (3, 3), "white").save(path, "PNG", pnginfo=text)

    monkeypatch.setattr(Figure, "savefig", save)


@pytest.fixture(scope="session")
def agents(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agents]:
    """Starts training runs of several processes; the first use waits for their imports."""
    with warm_agents(tmp_path_factory.mktemp("agents")) as warm:
        yield warm
