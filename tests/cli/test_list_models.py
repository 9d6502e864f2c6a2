"""`onebit list models`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from cli_support import Outcome

from onebit.models import MODELS


def test_a_line_for_each_model_with_parameters_input_and_sizes(onebit: Callable[..., Outcome]) -> None:
    outcome = onebit("list", "models")
    assert outcome.status == 0
    rows = dict(line.split(maxsplit=1) for line in re.sub(r"\n +", " ", outcome.out).splitlines())
    assert rows.keys() == MODELS.keys()
    assert rows["resnet20"] == "269,722 parameters for 3×32×32 images, 1.1 MB at 32 bits, 39.1 kB at 1 bit"
    assert rows["resnet18"].startswith("11,689,512 parameters for 3×224×224 images, 46.8 MB at 32 bits")


def test_as_json_like_the_other_lists(onebit: Callable[..., Outcome]) -> None:
    models = json.loads(onebit("list", "models", "--json").out)["models"]
    assert list(models) == list(MODELS)
    assert "269,722 parameters" in models["resnet20"]
