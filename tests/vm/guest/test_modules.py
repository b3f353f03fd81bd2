# SPDX-License-Identifier: Apache-2.0
"""What a broker asks for and a kernel has not: some of it has the kernel run modprobe each time."""

from __future__ import annotations

import time
from pathlib import Path

from broker import Broker, config, inline, monitors, policy
from lab import Lab

MODPROBE = Path("/proc/sys/kernel/modprobe")


def test_running_broker_has_no_module_asked_for(tmp_path: Path) -> None:
    asked, program = tmp_path / "asked", tmp_path / "modprobe"
    program.write_text(f'#!/bin/sh\necho "$*" >>{asked}\nexit 1\n')
    program.chmod(0o755)
    before = MODPROBE.read_text()
    with Lab() as lab, Broker(lab, config([inline()], monitors(1), [policy()])) as running:
        MODPROBE.write_text(str(program))
        try:
            lab.tap_ns.run("ip", "link", "add", "type", "nosuchkind", check=False)
            assert "nosuchkind" in asked.read_text()
            asked.unlink()
            time.sleep(5)  # it looks at its links once a second
            running.stats()
        finally:
            MODPROBE.write_text(before)
    assert not asked.exists(), asked.read_text()
