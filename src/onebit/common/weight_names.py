"""Which tensors of a state_dict are weights, by their names."""

from __future__ import annotations

import re

RECURRENT_NAME = re.compile(r"weight_(ih|hh|hr)(_l\d+(_reverse)?)?(\.original)?$")
"""The end of the name of a weight of a recurrent layer, plain or parametrized."""
WEIGHT_NAME = re.compile(rf"weight$|weight\.original$|{RECURRENT_NAME.pattern}")
"""The end of the name of any weight."""
