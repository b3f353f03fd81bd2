# SPDX-License-Identifier: Apache-2.0
"""The name of a flow: protocol and both ends, whichever of them speaks."""

from __future__ import annotations

from typing import NamedTuple


class Flow(NamedTuple):
    proto: str  # "tcp" or "udp"
    low: tuple[str, int]  # the lesser of the two (address, port)
    high: tuple[str, int]

    def __str__(self) -> str:
        return f"{self.proto} {self.low[0]}:{self.low[1]} - {self.high[0]}:{self.high[1]}"


def flow(proto: str, address: str, port: int, other: str, other_port: int) -> Flow:
    """Both directions give the same name."""
    ends = sorted(((address, port), (other, other_port)))
    return Flow(proto.lower(), ends[0], ends[1])
