"""Which tensors of a state_dict are weights, by their names."""

from __future__ import annotations

import re

WEIGHT_NAME = re.compile(r"weight(_(ih|hh|hr)(_l\d+(_reverse)?)?)?(\.original)?$")
"""The end of the name of a weight, plain or parametrized, of recurrent layers too."""
