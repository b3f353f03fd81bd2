#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a host tap costs the TCP of its host: iperf3 through a veth, all offloads on.

    gen            tap                mon
    g0 =========== a    m =========== m0
    client, CPU 0  server, CPU 1

The host is `tap`; its port is tapped in both directions. Broker and server share a CPU. Every state
gets a fresh lab in every round, in a new order; ratios are taken within a round, and `untapped-aa`
is the noise. Nothing reads the monitor.

Needs root, iperf3, and a build: cmake --preset bench && cmake --build --preset bench
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import bench

CLIENT, SERVER = "10.9.0.1", "10.9.0.2"
DIRECTIONS = {"to the host": [], "from the host": ["--reverse"]}

Change = Callable[[bench.Process], None]  # what happens to the broker before the measurement

TAPPED: dict[str, Change] = {
    "running": lambda _broker: None,
    "hung": lambda broker: broker.signal(signal.SIGSTOP),
    "stopped": lambda broker: broker.stop(),
    "killed": lambda broker: broker.signal(signal.SIGKILL),
}
PLACEMENTS = {"": "never", "clone-": "require"}
STATES = ["untapped", "untapped-aa",
          *(placement + state for placement in PLACEMENTS for state in TAPPED)]


@contextlib.contextmanager
def tapped(lab: bench.Lab, broker: Path, directory: Path, offload: str,
           change: Change) -> Iterator[None]:
    policy = bench.ONE_POLICY + f'offload = "{offload}"\n'
    config = directory / "tap.toml"
    config.write_text(bench.broker_config("", policy, directory)
                      .replace('mode = "inline"', 'mode = "host"')
                      .replace('ports = ["a", "b"]', 'ports = ["a"]'))
    process = lab.start("tap", [str(broker), "-c", str(config)], directory)
    try:
        process.wait_ready()
        change(process)
        yield
    finally:
        if process.alive():
            process.signal(signal.SIGCONT)
        process.stop()
        lab.run("tap", str(broker), "--detach", "-c", str(config))


def throughput(lab: bench.Lab, directory: Path, arguments: list[str], seconds: float) -> float:
    """Gbit/s that the receiver's application got."""
    server = lab.start("tap", ["iperf3", "--server", "--one-off"], directory, cpu=1)
    try:
        deadline = time.monotonic() + 10
        while not lab.run("tap", "ss", "-Hltn", "sport = :5201").stdout:
            if time.monotonic() > deadline or not server.alive():
                raise bench.BenchError(f"iperf3 does not listen: {server.tail()}")
            time.sleep(0.01)
        done = lab.run("gen", "taskset", "-c", "0", "iperf3", "--client", SERVER, "--json",
                       "--time", str(seconds), "--omit", "0.3", *arguments)
    finally:
        server.stop()
    return json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"] / 1e9


def measure(state: str, broker: Path, seconds: float) -> dict[str, float]:
    lab = bench.Lab()
    try:
        for role, port, address in (("gen", "g0", CLIENT), ("tap", "a", SERVER)):
            lab.run(role, "ip", "address", "add", f"{address}/24", "dev", port)
        with tempfile.TemporaryDirectory(prefix="vtap-bench-") as name, \
                contextlib.ExitStack() as stack:
            directory = Path(name)
            if not state.startswith("untapped"):
                placement = "clone-" if state.startswith("clone-") else ""
                stack.enter_context(tapped(lab, broker, directory, PLACEMENTS[placement],
                                           TAPPED[state.removeprefix(placement)]))
            return {direction: throughput(lab, directory, arguments, seconds)
                    for direction, arguments in DIRECTIONS.items()}
    finally:
        lab.close()


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--build-dir", type=Path, default=bench.ROOT / "build" / "bench")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="per state, direction and round")
    parser.add_argument("--seed", type=int, default=1, help="of the orders")
    arguments = parser.parse_args()
    broker = arguments.build_dir.resolve() / "broker" / "vtap-broker"
    order, states = random.Random(arguments.seed), list(STATES)
    rounds: list[dict[str, dict[str, float]]] = []
    for number in range(1, arguments.rounds + 1):
        order.shuffle(states)
        rounds.append({})
        for state in states:
            rounds[-1][state] = measure(state, broker, arguments.seconds)
            print(f"round {number} {state:14} " + "  ".join(
                f"{direction}: {value:.2f}" for direction, value in rounds[-1][state].items()),
                file=sys.stderr, flush=True)
    print("Gbit/s, and ratio to untapped within a round: median (least–most).\n")
    print("| state | " + " | ".join(f"{direction} | ratio" for direction in DIRECTIONS) + " |")
    print("| --- |" + " ---: | ---: |" * len(DIRECTIONS))
    for state in STATES:
        print(f"| {state} | " + " | ".join(
            spread([one[state][way] for one in rounds]) + " | "
            + spread([one[state][way] / one["untapped"][way] for one in rounds])
            for way in DIRECTIONS) + " |")
    return 0


if __name__ == "__main__":
    bench.atexit.register(bench.Lab.close_all)
    bench.atexit.register(bench.Process.stop_all)
    try:
        sys.exit(main())
    except (bench.BenchError, subprocess.SubprocessError) as error:
        sys.exit(f"tcp.py: {error}")
