# SPDX-License-Identifier: Apache-2.0
"""All contestants, by name."""

from __future__ import annotations

from bed import dpdk, kernel_taps, ovs, vtap
from bed.contestant import Contestant

CONTESTANTS: list[Contestant] = [*vtap.CONTESTANTS, *kernel_taps.CONTESTANTS, *ovs.CONTESTANTS,
                                 *dpdk.CONTESTANTS]
BY_NAME: dict[str, Contestant] = {contestant.name: contestant for contestant in CONTESTANTS}
assert len(BY_NAME) == len(CONTESTANTS)
