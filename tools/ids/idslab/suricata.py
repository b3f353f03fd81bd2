# SPDX-License-Identifier: Apache-2.0
"""Suricata: its config, its process, and what its eve.json says."""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from idslab.flow import Flow, flow

READY_S, STOP_S, OFFLINE_S = 60.0, 60.0, 300.0
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class Failed(Exception):
    """The experiment cannot go on; the message is for people."""


class Alert(NamedTuple):
    sid: int
    flow: Flow

    def __str__(self) -> str:
        return f"{self.sid} {self.flow}"


@dataclass
class Observation:
    """What one Suricata saw and said."""
    alerts: set[Alert] = field(default_factory=set)
    flows: Counter[Flow] = field(default_factory=Counter)  # packets of each
    kernel_packets: int = 0  # captured and dropped
    kernel_drops: int = 0
    decoded: int = 0
    invalid: int = 0  # decoded, but cut or broken: not looked into
    seconds: float = 0.0  # from the start of the engine to its end


def read_eve(lines: Iterable[str]) -> Observation:
    """Alerts and flows, and the last statistics. A line that was cut off at the end is an error:
    Suricata was ended in order."""
    seen = Observation()
    for number, line in enumerate(lines, 1):
        try:
            event = json.loads(line)
            kind = event["event_type"]
            if kind == "alert":
                seen.alerts.add(Alert(event["alert"]["signature_id"], _flow_of(event)))
            elif kind == "flow":
                packets = event["flow"]
                seen.flows[_flow_of(event)] += (packets["pkts_toserver"] +
                                                packets["pkts_toclient"])
            elif kind == "stats":
                _read_stats(event["stats"], seen)
        except (ValueError, KeyError, TypeError) as error:
            raise Failed(f"eve.json line {number}: {error!r}: {line[:200]}") from error
    return seen


def _flow_of(event: dict) -> Flow:
    return flow(event["proto"], event["src_ip"], event.get("src_port", 0),
                event["dest_ip"], event.get("dest_port", 0))


def _read_stats(stats: dict, seen: Observation) -> None:
    capture = stats.get("capture", {})  # absent when a pcap is read
    seen.kernel_packets = capture.get("kernel_packets", 0)
    seen.kernel_drops = capture.get("kernel_drops", 0)
    seen.decoded = stats["decoder"]["pkts"]
    seen.invalid = stats["decoder"]["invalid"]


# --- config -------------------------------------------------------------------------------------

def config(directory: Path, interface: str | None, ring_frames: int) -> str:
    """One thread captures, decodes and detects; every alert, flow and counter goes to eve.json."""
    capture = "" if interface is None else f"""
af-packet:
  - interface: {interface}
    threads: 1
    cluster-id: 99
    cluster-type: cluster_flow
    defrag: no
    use-mmap: yes
    tpacket-v3: yes
    ring-size: {ring_frames}
    block-timeout: 10
    checksum-checks: yes
    disable-promisc: no
"""
    return f"""%YAML 1.1
---
vars:
  address-groups: {{ HOME_NET: any, EXTERNAL_NET: any }}
  port-groups: {{ HTTP_PORTS: "80" }}
default-rule-path: {directory}
rule-files: [ lab.rules ]
classification-file: {directory}/classification.config
reference-config-file: {directory}/reference.config
threshold-file: {directory}/threshold.config
default-log-dir: {directory}
runmode: single
max-pending-packets: 1024
capture: {{ disable-offloading: false }}
logging:
  default-log-level: notice
  outputs:
    - console: {{ enabled: no }}
    - file: {{ enabled: yes, filename: suricata.log, level: info }}
stats: {{ enabled: yes, interval: 3600 }}
outputs:
  - eve-log:
      enabled: yes
      filetype: regular
      filename: eve.json
      types:
        - alert: {{ payload: no, packet: no, metadata: no }}
        - flow
        - stats: {{ totals: yes, threads: no, deltas: no }}
unix-command: {{ enabled: no }}
pcap-file: {{ checksum-checks: yes }}
app-layer:
  protocols:
    http: {{ enabled: yes }}
    ssh: {{ enabled: yes }}
    dns: {{ udp: {{ enabled: yes, detection-ports: {{ dp: 53 }} }} }}
flow: {{ memcap: 256mb, hash-size: 65536, prealloc: 10000 }}
stream:
  memcap: 256mb
  checksum-validation: yes
  midstream: false
  reassembly: {{ memcap: 512mb, depth: 0 }}
host: {{ hash-size: 4096, prealloc: 1000, memcap: 32mb }}
detect: {{ profile: medium, sgh-mpm-context: auto }}
{capture}"""


def write_config(directory: Path, rules: str, interface: str | None = None,
                 ring_frames: int = 4096) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "lab.rules").write_text(rules)
    for name in ("classification.config", "reference.config", "threshold.config"):
        (directory / name).touch()
    file = directory / "suricata.yaml"
    file.write_text(config(directory, interface, ring_frames))
    return file


# --- processes ----------------------------------------------------------------------------------

def offline(directory: Path, rules: str, pcap: Path) -> Observation:
    """Reads the pcap without haste: what there is to see."""
    file = write_config(directory, rules)
    done = subprocess.run(["suricata", "-c", file, "-l", directory, "-r", pcap, "--runmode",
                           "single"], capture_output=True, text=True, timeout=OFFLINE_S)
    _refuse_errors(directory)
    if done.returncode != 0:
        raise Failed(f"suricata -r: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return _read(directory)


class Live:
    """A Suricata on an interface; `inside` is entered while it starts (a network namespace)."""

    def __init__(self, directory: Path, rules: str, interface: str, cpu: int, ring_frames: int,
                 inside: AbstractContextManager | None = None) -> None:
        self._directory = directory
        self._interface = interface
        file = write_config(directory, rules, interface, ring_frames)
        with inside or nullcontext(), (directory / "output").open("wb") as output:
            self._process = subprocess.Popen(
                ["taskset", "-c", str(cpu), "suricata", "-c", file, "-l", directory,
                 f"--af-packet={interface}", "--runmode", "single"],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
                preexec_fn=lambda: _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL))

    def wait_ready(self) -> None:
        deadline = time.monotonic() + READY_S
        while not re.search("engine started", _log(self._directory), re.I):
            if self._process.poll() is not None:
                raise Failed(f"suricata on {self._interface} ended with "
                             f"{self._process.returncode}:\n{_log(self._directory)}")
            if time.monotonic() > deadline:
                raise Failed(f"suricata on {self._interface} did not start in {READY_S:.0f} s:\n"
                             f"{_log(self._directory)}")
            time.sleep(0.02)

    def cpu_seconds(self) -> float:
        fields = Path("/proc", str(self._process.pid), "stat").read_text().rpartition(")")[2]
        user, system = fields.split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def wait_idle(self, timeout: float = 60.0) -> None:
        """Until it has worked off what its ring holds: it wants no CPU any more."""
        deadline = time.monotonic() + timeout
        quiet, last = 0, self.cpu_seconds()
        while quiet < 3:
            time.sleep(0.1)
            now = self.cpu_seconds()
            quiet = quiet + 1 if now - last < 0.015 else 0
            last = now
            if time.monotonic() > deadline:
                raise Failed(f"suricata on {self._interface} is busy {timeout:.0f} s after the "
                             "last packet")

    def end(self) -> None:
        """Asks it to end in order: it looks at what its flows still hold."""
        self._process.send_signal(signal.SIGTERM)

    def finish(self) -> Observation:
        """After `end`: waits for the end, and reads what it saw."""
        if (code := self._process.wait(STOP_S)) != 0:
            raise Failed(f"suricata on {self._interface}: exit {code}:\n{_log(self._directory)}")
        _refuse_errors(self._directory)
        return _read(self._directory)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def _log(directory: Path) -> str:
    file = directory / "suricata.log"
    return file.read_text(errors="replace") if file.exists() else ""


def _refuse_errors(directory: Path) -> None:
    """A rule that did not load, a port that did not open: not the experiment that was meant."""
    errors = [line for line in _log(directory).splitlines() if " Error: " in line]
    if errors:
        raise Failed("suricata: " + "\n".join(errors))


def _read(directory: Path) -> Observation:
    with (directory / "eve.json").open() as lines:
        seen = read_eve(lines)
    if found := re.search(r"time elapsed ([\d.]+)s", _log(directory)):
        seen.seconds = float(found[1])
    return seen
