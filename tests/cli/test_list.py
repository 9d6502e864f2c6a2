"""`onebit list nets` and `list models`."""

from __future__ import annotations

import re

from onebit.models import MODELS
from onebit.nets import net_names, net_path
from onebit.packed import load
from support.command_line import Onebit


def test_every_net_has_a_line_with_what_its_card_says(onebit: Onebit) -> None:
    found = onebit("list", "nets", "--json").json["nets"]
    assert list(found) == net_names()
    lines = onebit("list", "nets").out.splitlines()
    lines = lines[next(i for i, line in enumerate(lines) if line.startswith("name ")) :]
    for (name, facts), line in zip(found.items(), lines[1:], strict=True):
        card = load(name).card
        assert card is not None
        packed = card.test["packed"]
        assert (facts["dataset"], facts["method"], facts["summary"]) == (card.dataset, card.method, card.summary)
        assert (facts["weights"], facts["correct"], facts["count"]) == ("packed", packed.correct, packed.count)
        assert facts["accuracy"] == packed.correct / packed.count
        assert facts["bytes"] == net_path(name).stat().st_size
        assert line.split()[:2] == [name, card.dataset]
        assert f"{100 * facts['accuracy']:.2f} %" in line
        share = "99.6 %" if name == "resnet20-cifar10-signs" else "100.0 %"  # its first and last layer are real
        assert share in line
    expected = {"mnist-mlp": "W1A32", "mnist-mlp-signs": "W1A1", "resnet20-cifar10-int8": "W1A8"}
    assert expected.items() <= {name: facts["bits"] for name, facts in found.items()}.items()


def test_a_line_for_each_model_with_parameters_input_and_sizes(onebit: Onebit) -> None:
    outcome = onebit("list", "models")
    rows = dict(line.split(maxsplit=1) for line in re.sub(r"\n +", " ", outcome.out).splitlines())
    assert list(rows) == list(MODELS)
    assert rows["resnet20"] == "269,722 parameters for 3×32×32 images, 1.1 MB at 32 bits, 39.1 kB at 1 bit"
    assert rows["resnet18"].startswith("11,689,512 parameters for 3×224×224 images, 46.8 MB at 32 bits")


def test_list_alone_lists_its_kinds(onebit: Onebit) -> None:
    known = {
        **{"recipes": "mnist-fast", "methods": "bnn", "models": "mlp", "quantizers": "weights: stochastic"},
        **{"optimizers": "adamw", "losses": "squared_hinge", "schedules": "cosine", "nets": "mnist-mlp"},
        **{"datasets": "mnist-sample", "exports": "torch"},
    }
    kinds = onebit("list", "--json").json["kinds"]
    assert list(kinds) == [line.split()[0] for line in onebit("list").out.splitlines() if line[0] != " "]
    assert kinds.keys() == known.keys()
    for kind, text in kinds.items():
        assert text
        if kind not in ("nets", "models"):  # above
            assert known[kind] in onebit("list", kind, "--json").json[kind]
            assert any(line.startswith(known[kind]) for line in onebit("list", kind).out.splitlines())
