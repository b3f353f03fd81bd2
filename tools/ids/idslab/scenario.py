# SPDX-License-Identifier: Apache-2.0
"""The policies that the experiment compares, and which attacks each may give up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

CONFIG = """\
[broker]
workers = [{cpu}]

[[tap]]
name = "wire"
mode = "inline"
ports = ["t0", "t1"]

[[monitor]]
name = "ids"
port = "m0"

"""


def _none(_attack) -> bool:
    return False


def _any(_attack) -> bool:
    return True


def _deeper_than(frames: int) -> Callable[[object], bool]:
    return lambda attack: attack.complete_with > frames


@dataclass(frozen=True)
class Scenario:
    name: str
    policies: str  # TOML
    whole: bool = False  # the monitor is to get every frame
    # How many frames the monitor may get of a flow that has so many; None: any number.
    of_a_flow: Callable[[int], tuple[int, ...]] | None = None
    may_lose: Callable[[object], bool] = _none

    def config(self, cpu: int) -> str:
        return CONFIG.format(cpu=cpu) + self.policies


def one_policy(keys: str) -> str:
    return f'[[policy]]\nname = "all"\nmonitors = ["ids"]\n{keys}\n'


_BULK_APART = """\
[[policy]]
name = "bulk"
monitors = ["ids"]
match = [{ port = 5001 }]
meter = { rate = "1kpps", burst = 100 }

[[policy]]
name = "rest"
monitors = ["ids"]
except = [{ port = 5001 }]
"""

# Bursts per flow are longer than any attack but the late ones.
_PER_FLOW = 'meter = { rate = "500pps", burst = 60, per = "flow", exceed = { slice = 128 } }'

SCENARIOS = (
    Scenario("plain", one_policy(""), whole=True, of_a_flow=lambda frames: (frames,)),
    Scenario("flows", one_policy("sample = { flows = 0.5 }"), may_lose=_any,
             of_a_flow=lambda frames: (0, frames)),
    Scenario("meter", one_policy('meter = { rate = "10kpps", burst = 1000 }'), may_lose=_any),
    Scenario("meter-bulk", _BULK_APART),
    Scenario("head", one_policy("head = 20"), may_lose=_deeper_than(20),
             of_a_flow=lambda frames: (min(frames, 20),)),
    Scenario("slice", one_policy("slice = { bytes = 256, after = 20 }"),
             may_lose=_deeper_than(20)),
    Scenario("meter-flow", one_policy(_PER_FLOW), may_lose=_deeper_than(60)),
)


def from_option(text: str) -> Scenario:
    """NAME:KEYS, keys of the one policy as in a config file. Nothing is known of what it loses."""
    name, colon, keys = text.partition(":")
    if not colon or not name.replace("-", "").replace("_", "").isalnum() or not keys.strip():
        raise ValueError(f"{text!r} is not NAME:KEYS, for example 'head5:head = 5'")
    return Scenario(name, one_policy(keys.strip()), may_lose=_any)
