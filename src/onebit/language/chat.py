"""Chat templates: a stranger's Jinja text, rendered in a sandbox in a process of its own with limits."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from onebit.errors import FormatError

SECONDS, MEMORY, MAX_TEXT = 5, 1 << 29, 1_000_000
"""Limits of a template: time, bytes of memory (not on Windows), and characters of its text."""
_RENDER = """
import datetime, json, sys
given = json.load(sys.stdin)
sys.path[:] = given["path"]
from jinja2.sandbox import ImmutableSandboxedEnvironment
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (given["memory"],) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (given["seconds"],) * 2)
except ImportError:
    pass
def refuse(message):
    raise ValueError(message)
made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
made.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
made.globals["raise_exception"] = refuse
made.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
text = made.from_string(given["template"]).render(**given["values"])
if len(text) > given["largest"]:
    refuse(f"it makes {len(text):,} characters")
sys.stdout.buffer.write(text.encode())
"""


def render(template: str, messages: Sequence[Mapping[str, str]], **values: Any) -> str:
    """The prompt of messages, each with "role" and "content".

    Raises:
        FormatError: the template fails, or does not end within the limits. ModuleNotFoundError: without jinja2.
    """
    if find_spec("jinja2") is None:
        raise ModuleNotFoundError("No module named 'jinja2'", name="jinja2")
    limits = {"seconds": SECONDS, "memory": MEMORY, "largest": MAX_TEXT, "path": sys.path}
    values |= {"messages": list(messages), "add_generation_prompt": True}
    given = json.dumps({"template": template, "values": values, **limits})
    try:
        # without the user's environment, which could name code to run
        done = subprocess.run([sys.executable, "-I", "-c", _RENDER], input=given.encode(), capture_output=True,
                              timeout=2 * SECONDS)  # fmt: skip
    except subprocess.TimeoutExpired:
        raise FormatError(f"the chat template does not end within {2 * SECONDS} seconds") from None
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise FormatError(f"the chat template fails: {lines[-1] if lines else 'it needs too much time or memory'}")
    return done.stdout.decode()
