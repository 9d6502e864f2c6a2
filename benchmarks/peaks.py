"""The clock rate of the processor, and the multiply-accumulates per cycle that its instructions allow."""

from __future__ import annotations

import platform
import time
from contextlib import suppress

import onebit

_CHAIN_STEPS = 1 << 16
_CHAIN_CYCLES = {"x86_64": 4, "AMD64": 4}  # imul 3, add 1, on every processor below; unknown for others

_FAMILIES: dict[tuple[str, int], dict[str, tuple[int, ...]]] = {
    ("GenuineIntel", 6): {
        "skylake": (78, 85, 94, 142, 158, 165, 166),  # 85: Skylake-X, Cascade Lake, Cooper Lake
        "ice lake": (
            *(106, 108, 125, 126, 140, 141, 167),
            *(143, 207, 173, 174),  # Sapphire Rapids, Emerald Rapids, Granite Rapids
        ),
    },
    ("AuthenticAMD", 23): {"zen 2": tuple(range(0x30, 0x100))},
    ("AuthenticAMD", 25): {"zen 3, zen 4": tuple(range(0x100))},
    ("AuthenticAMD", 26): {"zen 5": tuple(range(0x100))},
}
"""Vendor and family -> microarchitecture -> models, as in /proc/cpuinfo."""

_AVX512 = ("avx512bw", "avx512vnni", "avx512")
_INTEL = {
    ("avx2", "lut"): 24.0,  # a vpermd chooses 8 sums of 3, one a cycle
    ("avx2", "dot"): 32,  # vpmaddubsw and vpmaddwd for 32 products, two instructions a cycle
    # 4 xor, 6 ternary functions and 7 to count what is left, for 2,048 products, two instructions a cycle
    **dict.fromkeys([("avx512bw", "xnor"), ("avx512vnni", "xnor")], 2048 * 2 / 17),
    **dict.fromkeys([(isa, "lut") for isa in _AVX512], 64.0),  # 16 sums of 4, one a cycle
    ("avx512bw", "dot"): 64,
    **dict.fromkeys([("avx512vnni", "dot"), ("avx512", "dot")], 128.0),  # 64 a vpdpbusd, of servers two a cycle
}
LIMITS: dict[str, dict[tuple[str, str], float]] = {
    "skylake": {**_INTEL, ("avx2", "xnor"): 128},  # two vpshufb for 256 products, one a cycle
    "ice lake": {**_INTEL, ("avx2", "xnor"): 256, ("avx512", "xnor"): 512},  # two vpshufb a cycle; a vpopcntd has 512
    "zen 2": {("avx2", "xnor"): 256},
    "zen 3, zen 4": {  # measured on Zen 4: a vpermd, vpermw, vpmaddubsw or vpdpbusd of 512 bits a cycle
        ("avx2", "xnor"): 256,
        **{(isa, step): most for isa in _AVX512 for step, most in (("lut", 64.0), ("dot", 64.0), ("dot_lut", 160.0))},
    },
    "zen 5": {  # measured: two vpermd and two vpdpbusd a cycle, and xor, count and sum together 1.33 times
        ("avx2", "xnor"): 256,
        ("avx2", "lut"): 48,
        **dict.fromkeys([(isa, "lut") for isa in _AVX512], 128.0),
        **dict.fromkeys([(isa, "dot_lut") for isa in _AVX512], 320.0),  # a vpermw has 32 sums of 5, two a cycle
        **dict.fromkeys([("avx512vnni", "dot"), ("avx512", "dot")], 128.0),
        ("avx512", "xnor"): 683,
    },
}
"""Microarchitecture -> (instruction set, kernel) -> multiply-accumulates per cycle.

An upper bound: the rate at which the processor can issue the one instruction that a kernel needs for each of its
products, or all of its instructions if they use the same ports. Most kernels stay well below it because of their other
work: on Intel, xor and sum share two ports with the 512-bit counts.
"""


def microarchitecture(cpuinfo: str = "/proc/cpuinfo") -> str | None:
    """A name in LIMITS; None if unknown."""
    with suppress(OSError, KeyError, ValueError), open(cpuinfo, encoding="utf-8") as file:
        first = file.read().partition("\n\n")[0]
        facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}
        families = _FAMILIES[facts["vendor_id"], int(facts["cpu family"])]
        model = int(facts["model"])
        return next((name for name, models in families.items() if model in models), None)
    return None


def limit(name: str | None, isa: str, step: str) -> float | None:
    """Multiply-accumulates per cycle; None if unknown."""
    return LIMITS.get(name or "", {}).get((isa, step))


def clock() -> float | None:
    """The current clock rate in cycles per second; None if the cycles of the timed chain are unknown."""
    cycles = _CHAIN_CYCLES.get(platform.machine())
    if cycles is None:
        return None
    best = float("inf")
    for _ in range(3):  # another process may have used the core
        started = time.perf_counter()
        onebit.native.library.chain(1, _CHAIN_STEPS)
        best = min(best, time.perf_counter() - started)
    return cycles * _CHAIN_STEPS / best
