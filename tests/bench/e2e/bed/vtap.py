# SPDX-License-Identifier: Apache-2.0
"""vtap-broker as a contestant, and the plain forwarders that its cost is measured against."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import bench

from bed import testbed
from bed.contestant import Contestant, Kind, Skip, Start, running, without_paths

# What the broker answers when the config or the kernel cannot do what is asked: not a failure.
REFUSALS = {2: "config", 3: "kernel or privilege"}

EVERYTHING = ""
NOTHING = 'match = [{ proto = "tcp", dst_port = 9 }]'  # of what the generator sends


def config(bed: testbed.Bed, directory: Path, tap: str, *, on_receiver: bool, monitors: int,
           match: str = EVERYTHING, offload: str = "", workers: Sequence[int] = (),
           settings: str = "") -> str:
    """A tap of one policy for all the monitors. `tap` and `settings`: further lines of their
    tables."""
    ports = ["a"] if on_receiver else ["a", "b"]
    mode = "host" if on_receiver else "inline"
    direction = '\ndirection = "ingress"' if on_receiver else ""
    names = [f"ids{number}" for number in range(monitors)]
    lines = [f"""[broker]
name = "bench"
workers = {list(workers) or [bench.WORKER_CPU]}
control = "{directory}/control.sock"
{settings}

[[tap]]
name = "wan"
mode = "{mode}"{direction}
ports = {quoted(ports)}
{tap}
"""]
    lines += [f'[[monitor]]\nname = "{name}"\nport = "{port}"\n'
              for name, port in zip(names, bed.monitor_ports(), strict=False)]
    lines.append(f'[[policy]]\nname = "all"\nmonitors = {quoted(names)}\n{match}')
    if offload:
        lines.append(f'offload = "{offload}"')
    return "\n".join(lines) + "\n"


def quoted(words: Sequence[str]) -> str:
    return "[" + ", ".join(f'"{word}"' for word in words) + "]"


@contextlib.contextmanager
def broker(bed: testbed.Bed, tools: bench.Tools, directory: Path, text: str
           ) -> Iterator[bench.Process]:
    """The broker with that config. Skip where the broker refuses it, with the broker's words."""
    file = directory / "tap.toml"
    file.write_text(text)
    check = subprocess.run(["nsenter", f"--net=/run/netns/{bed.name['tap']}", str(tools.broker),
                            "--check", "-c", str(file)], text=True, capture_output=True)
    if check.returncode in REFUSALS:
        raise Skip(refusal(check.stderr, directory))
    process = bed.start("tap", [str(tools.broker), "-c", str(file)], directory)
    try:
        try:
            process.wait_ready()
        except bench.BenchError as error:
            if any(f"ended with {code}:" in str(error) for code in REFUSALS):
                raise Skip(refusal(process.stderr(), directory)) from None
            raise
        yield process
    finally:
        process.stop()
        bed.run("tap", str(tools.broker), "--detach", "-c", str(file), check=False)


def refusal(stderr: str, directory: Path) -> str:
    lines = [line.strip() for line in without_paths(stderr, directory).splitlines() if line.strip()]
    return "vtap-broker refuses: " + (" | ".join(lines[-4:]) or "without a word")


def tap(lines: str, *, on_receiver: bool = False, monitors: int = 1, offload: str = "",
        match: str = EVERYTHING) -> Start:
    """The product: one tap, one policy, so many monitors."""
    at_tc = 'hook = "xdp"' not in lines and "redirect" not in lines

    @contextlib.contextmanager
    def start(bed: testbed.Bed, tools: bench.Tools, directory: Path) -> Iterator[bench.Process]:
        if not at_tc:
            bed.tx_offloads_off()
        text = config(bed, directory, lines, on_receiver=on_receiver, monitors=monitors,
                      offload=offload, match=match)
        with broker(bed, tools, directory, text) as process:
            if at_tc:
                bed.input_napi_on()  # the broker turns GRO off
            yield process
    return start


TEE_XDP = 'capture = "tee"\nhook = "xdp"'
TEE_TC = 'capture = "tee"\nhook = "tc"'
REDIRECT = 'capture = "redirect"'


def forward(hook: str) -> Start:
    """Nothing but a redirect from port to port."""
    def start(bed: testbed.Bed, tools: bench.Tools, directory: Path):
        if hook == "xdp":
            bed.tx_offloads_off()
        return running(bed, "tap", [str(tools.generator), "forward", "--hook", hook, "--ports",
                                    "a,b"], directory, bench.WORKER_CPU)
    return start


@contextlib.contextmanager
def nothing(bed: testbed.Bed, tools: bench.Tools, directory: Path) -> Iterator[None]:
    """The receiver without a tap."""
    yield None


CONTESTANTS = [
    Contestant("xdp-forward", "untapped XDP devmap redirect", Kind.untapped, forward("xdp"), 0),
    Contestant("xdp-forward-aa", "the same once more", Kind.untapped, forward("xdp"), 0),
    Contestant("tc-forward", "untapped TC redirect", Kind.untapped, forward("tc"), 0),
    Contestant("tc-forward-aa", "the same once more", Kind.untapped, forward("tc"), 0),
    Contestant("tee-xdp", "tee at XDP, copies by the broker", Kind.vtap, tap(TEE_XDP)),
    Contestant("tee-tc", "tee at TC, copies by the broker", Kind.vtap, tap(TEE_TC)),
    Contestant("redirect", "AF_XDP redirect: the broker passes originals on", Kind.vtap,
               tap(REDIRECT)),
    Contestant("clone", 'tap at TC, every copy cloned for the broker (`capture = "clone"`)',
               Kind.vtap, tap('capture = "clone"')),
    Contestant("kernel-tc", 'kernel placement at TC (`offload = "require"`)', Kind.vtap,
               tap(TEE_TC, offload="require")),
    Contestant("fanout", 'kernel placement at XDP (`offload = "require"`)', Kind.vtap,
               tap(TEE_XDP, offload="require")),
    Contestant("tee-xdp-4", "tee at XDP, four monitors", Kind.vtap, tap(TEE_XDP, monitors=4), 4),
    Contestant("tee-tc-4", "tee at TC, four monitors", Kind.vtap, tap(TEE_TC, monitors=4), 4),
    Contestant("kernel-tc-4", "kernel placement at TC, four monitors", Kind.vtap,
               tap(TEE_TC, monitors=4, offload="require"), 4),
    Contestant("fanout-4", "kernel placement at XDP, four monitors", Kind.vtap,
               tap(TEE_XDP, monitors=4, offload="require"), 4),
    Contestant("host-untapped", "no tap", Kind.untapped, nothing, 0, on_receiver=True),
    Contestant("host-untapped-aa", "the same once more", Kind.untapped, nothing, 0,
               on_receiver=True),
    Contestant("host-tee-xdp", "host tap at XDP, copies by the broker", Kind.vtap,
               tap(TEE_XDP, on_receiver=True), on_receiver=True),
    Contestant("host-tee-tc", "host tap at TC, copies by the broker", Kind.vtap,
               tap(TEE_TC, on_receiver=True), on_receiver=True),
    Contestant("host-kernel-tc", "host tap, kernel placement at TC", Kind.vtap,
               tap(TEE_TC, on_receiver=True, offload="require"), on_receiver=True),
]
