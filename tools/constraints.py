"""Write constraints.txt: a line for each package that development installs, with what brings it.

python -m tools.constraints    writes the versions of this environment; what is not installed here keeps its line
"""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FILE = Path(__file__).parents[1] / "constraints.txt"
EXTRAS = ("dev", "docs")
OF_TORCH = ("cuda-", "nvidia-", "triton")
"""What a build of torch for GPUs brings, in versions that it states itself."""
HEAD = "# What development and CI install, and why: `python -m tools.constraints`; torch is the CPU build if offered"


def lines() -> dict[str, tuple[str, str]]:
    """Package -> its version in the file, and what brings it."""
    found = re.findall(r"^([\w.-]+)==([^\s;]+).*  # (\S+)$", FILE.read_text(encoding="utf-8"), re.MULTILINE)
    return {name: (version, by) for name, version, by in found}


def required(name: str, extra: str) -> list[Requirement]:
    """What a package requires, with one of its extras or without."""
    if name == "onebit":  # its installed metadata may be older
        import tomllib  # type: ignore[import-not-found]  # Python 3.11

        project = tomllib.loads(FILE.with_name("pyproject.toml").read_text(encoding="utf-8"))["project"]
        texts = project["optional-dependencies"].get(extra, []) if extra else project["dependencies"]
    else:
        try:
            texts = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            texts = [package for package, (_, by) in lines().items() if by.partition("[")[0] == name]
    needs = map(Requirement, texts)
    return [need for need in needs if need.marker is None or need.marker.evaluate({"extra": extra})]


def needed() -> dict[str, str]:
    """Package -> what brings it, as "requests" or "onebit[dev]", by the fewest steps."""
    found: dict[str, str] = {}
    waiting = [("onebit", extra) for extra in ("", *EXTRAS)]
    for name, extra in waiting:  # grows meanwhile
        for need in required(name, extra):
            package: str = canonicalize_name(need.name)
            if not package.startswith(OF_TORCH):
                found.setdefault(package, f"{name}[{extra}]" if extra else name)
                waiting += [key for of in ("", *sorted(need.extras)) if (key := (package, of)) not in waiting]
    return {package: by for package, by in sorted(found.items()) if package != "onebit"}


def main() -> None:
    known, rows = lines(), [HEAD]
    for package, by in needed().items():
        try:
            version = metadata.version(package).partition("+")[0]  # torch: without its build
        except metadata.PackageNotFoundError:
            version = known[package][0]
        marker = "" if package == "torch" else '; python_version >= "3.11"'
        rows.append(f"{package}=={version}{marker}  # {by}")
    FILE.write_text("\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
