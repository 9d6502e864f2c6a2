"""Files that are read, refused by name, damaged or forged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onebit.errors import FormatError
from onebit.language import load_language_model
from onebit.language.net import read_net
from support.gguf_models import write_model

SMALL = (128, 128, 1, 2, 1, 64, 300)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"kind": "gemma"}, "gemma"),
        ({"weights": "TQ1_0", "shape": (256, 256, 1, 2, 1, 128, 300), "ends": "F32"}, "TQ1_0"),
        ({"facts": {"attention.causal": False}}, "causal"),
        ({"facts": {"attention.sliding_window": 64}}, "sliding_window"),
        ({"facts": {"rope.scaling.type": "longrope", "rope.scaling.factor": 4.0}}, "longrope"),
        ({"facts": {"rope.dimension_count": 32}}, "part"),
        ({"facts": {"expert_count": 4}}, "expert_count"),
        ({"tensors": {"blk.0.attn_sinks.weight": np.ones(2, np.float32)}}, "attn_sinks"),
        ({"tensors": {"token_embd.bias": np.zeros(300, np.float32)}}, "embedding"),
        ({"shape": (128, 128, 1, 2, 1, 80, 300), "weights": "F16"}, "widths"),
    ],
)
def test_what_it_cannot_run_is_refused_by_name(options: dict[str, Any], named: str, tmp_path: Path) -> None:
    path = write_model(tmp_path / "x.gguf", options.pop("shape", SMALL), **options)
    with pytest.raises(FormatError, match=named):
        read_net(path)


def test_rotations(tmp_path: Path) -> None:
    """Linear divides angles, `rope_freqs` each of them; yarn keeps fast pairs and divides slow ones."""
    plain = read_net(write_model(tmp_path / "a.gguf", SMALL))[0]
    np.testing.assert_allclose(plain.angles, 1e6 ** (-np.arange(32) / 32))
    factors = np.linspace(1, 8, 32, dtype=np.float32)
    each = read_net(write_model(tmp_path / "b.gguf", SMALL, tensors={"rope_freqs.weight": factors}))[0]
    np.testing.assert_allclose(each.angles, plain.angles / factors, rtol=1e-6)
    linear = {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}
    assert (read_net(write_model(tmp_path / "c.gguf", SMALL, facts=linear))[0].angles == plain.angles / 4).all()
    yarn = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 8192}
    net = read_net(write_model(tmp_path / "d.gguf", SMALL, facts=yarn))[0]
    ratio = plain.angles / net.angles
    assert ratio[0] == 1
    assert ratio[-1] == 4
    assert (np.diff(ratio) >= 0).all()
    assert net.magnitude == pytest.approx(1 + 0.1 * np.log(4))
    assert np.linalg.norm(net.rotation(9)[8, 3]) == pytest.approx(net.magnitude)


def test_a_private_net_does_not_change_its_file(tmp_path: Path) -> None:
    path = write_model(tmp_path / "x.gguf", SMALL)
    before = path.read_bytes()
    load_language_model(path, context=8).decoder.run(np.array([1], np.int32), 0)
    assert path.read_bytes() == before
