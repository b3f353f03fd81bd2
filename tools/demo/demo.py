# SPDX-License-Identifier: Apache-2.0
"""The demo: real traffic through a broker between network namespaces, counted at every end.

    sender link0 ===== eth1 [ tap: vtap-broker ] eth2 ===== link0 receiver
                          eth3 |     | eth4
                         link0 ids   recorder link0

All of it is made here, under names with this process's id, and taken away again, whatever happens.
The verdict at the end rests on counts from outside the broker: what the devices of the receiver and
of the monitors have got.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "config" / "demo.toml"
NAME = "demo"  # of the broker, as the config has it
SOCKET = Path("/run/vtap") / f"{NAME}.sock"
PREFIX = "vtap-demo-"
NETNS = Path("/run/netns")
PORTS = {"eth1": "sender", "eth2": "receiver", "eth3": "ids", "eth4": "recorder"}
VLAN = 100
NO_IPV6 = "/proc/sys/net/ipv6/conf/default/disable_ipv6"
READY_S, SETTLE_S, STOP_S = 30.0, 5.0, 10.0
TERMINAL = sys.stdout.isatty()

_libc = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


class Failed(Exception):
    """The demo cannot go on; the message is for people."""


def die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def hold_signals() -> None:
    """From here on nothing interrupts: the lab is being taken away."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def run(*argv: object, check: bool = True) -> str:
    done = subprocess.run([str(word) for word in argv], text=True, capture_output=True,
                          stdin=subprocess.DEVNULL, start_new_session=True)
    if check and done.returncode != 0:
        raise Failed(f"{' '.join(map(str, argv))}: exit {done.returncode}\n"
                     f"{done.stdout}{done.stderr}".rstrip())
    return done.stdout


# --- the lab ------------------------------------------------------------------------------------

class Lab:
    """The namespaces and their links; offloads stay as the kernel sets them."""

    def __init__(self) -> None:
        self.vlan_devices = True
        self._names = {role: f"{PREFIX}{os.getpid()}-{role}" for role in ("tap", *PORTS.values())}

    def __enter__(self) -> "Lab":
        try:
            self._build()
        except BaseException:
            hold_signals()
            self.close()
            raise
        return self

    def __exit__(self, *_exc) -> None:
        self.close()

    def _build(self) -> None:
        for name in self._names.values():
            run("ip", "netns", "add", name)
        for near, role in PORTS.items():
            # The far ends of monitors stay silent: what they count came from the broker.
            if role in ("ids", "recorder"):
                run(*self.inside(role, "sh", "-c", f"test ! -e {NO_IPV6} || echo 1 > {NO_IPV6}"))
            run("ip", "link", "add", near, "netns", self._names["tap"], "type", "veth",
                "peer", "name", "link0", "netns", self._names[role])
            self.ip(role, "link", "set", "link0", "up")
            self.ip("tap", "link", "set", near, "up")
        for number, role in ((1, "sender"), (2, "receiver")):
            self.ip(role, "addr", "add", f"10.0.0.{number}/24", "dev", "link0")
            if self.vlan_devices:
                self._add_vlan(role, f"10.100.0.{number}/24")

    def _add_vlan(self, role: str, address: str) -> None:
        try:
            self.ip(role, "link", "add", "link", "link0", "name", "tagged", "type", "vlan",
                    "id", VLAN)
        except Failed:
            self.vlan_devices = False
            print("demo: this kernel has no VLAN devices (8021q); packet sockets send tags instead")
            return
        self.ip(role, "addr", "add", address, "dev", "tagged")
        self.ip(role, "link", "set", "tagged", "up")

    def close(self) -> None:
        for name in self._names.values():
            if (NETNS / name).exists():
                run("ip", "netns", "del", name, check=False)

    def ip(self, role: str, *words: object) -> str:
        return run("ip", "-n", self._names[role], *words)

    def inside(self, role: str, *argv: object) -> list[str]:
        """A command line for the namespace. Not `ip netns exec`, which hides /sys and bpffs."""
        return ["nsenter", f"--net={NETNS / self._names[role]}", *map(str, argv)]

    def counters(self, role: str, port: str = "link0") -> dict[str, int]:
        shown = json.loads(self.ip(role, "-s", "-j", "link", "show", "dev", port))[0]["stats64"]
        return {f"{way}_{what}": shown[way][what]
                for way in ("rx", "tx") for what in ("packets", "bytes", "dropped")}


def remove_stale(binary: Path) -> None:
    """What demos left that were killed. A living demo's is left alone."""
    def dead(entry: Path) -> bool:
        return not Path("/proc", entry.name.removeprefix(PREFIX).split("-")[0]).exists()

    for entry in filter(dead, NETNS.glob(f"{PREFIX}*")):
        if entry.name.endswith("-tap"):
            run("nsenter", f"--net={entry}", binary, "--detach", "-c", CONFIG, check=False)
        run("ip", "netns", "del", entry.name, check=False)
    for entry in filter(dead, Path(tempfile.gettempdir()).glob(f"{PREFIX}*")):
        shutil.rmtree(entry, ignore_errors=True)


# --- processes ----------------------------------------------------------------------------------

class Process:
    """A child in a session of its own: Ctrl-C reaches this script alone, which ends the others in
    order. It cannot outlive this script."""

    def __init__(self, argv: list[str], **streams) -> None:
        self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, start_new_session=True,
                                         preexec_fn=die_with_parent, **streams)
        self.stdout = self._process.stdout

    @property
    def ended(self) -> int | None:
        return self._process.poll()

    def stop(self) -> int:
        """SIGTERM, and SIGKILL if that is not enough; the exit code."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        return self._process.wait()


def binary_of(build: Path) -> Path:
    return build / "broker" / "vtap-broker"


class Broker:
    def __init__(self, lab: Lab, build: Path, directory: Path) -> None:
        self._lab = lab
        self._binary = binary_of(build)
        self._ctl = build / "tools" / "vtapctl" / "vtapctl"
        self._log = directory / "broker.log"
        self._made_run_vtap = not SOCKET.parent.exists()
        self._process: Process | None = None

    def __enter__(self) -> "Broker":
        try:
            with self._log.open("w") as log:
                self._process = Process(self._lab.inside("tap", self._binary, "-c", CONFIG),
                                        stdout=log, stderr=log)
            deadline = time.monotonic() + READY_S
            while not any(line.endswith(" ready") for line in self.log().splitlines()):
                if self._process.ended is not None:
                    raise Failed(f"the broker ended with {self._process.ended}:\n{self.log()}")
                if time.monotonic() > deadline:
                    raise Failed(f"the broker is not ready after {READY_S:.0f} s:\n{self.log()}")
                time.sleep(0.02)
        except BaseException:
            hold_signals()
            self.close()
            raise
        return self

    def __exit__(self, *_exc) -> None:
        self.close()

    def close(self) -> None:
        """Ends it and takes away what it leaves on the ports by design."""
        if self._process is not None:
            code = self._process.stop()
            if code != 0:
                print(f"demo: the broker ended with {code}:\n{self.log()}", file=sys.stderr)
        run(*self._lab.inside("tap", self._binary, "--detach", "-c", CONFIG), check=False)
        if self._made_run_vtap:
            with contextlib.suppress(OSError):
                SOCKET.parent.rmdir()

    def alive(self) -> None:
        if self._process.ended is not None:
            raise Failed(f"the broker ended with {self._process.ended}:\n{self.log()}")

    def log(self) -> str:
        return self._log.read_text(errors="replace").rstrip() if self._log.exists() else ""

    def stats(self) -> dict:
        return json.loads(self.ctl("stats", "--json"))

    def ctl(self, *words: str) -> str:
        return run(self._ctl, "--socket", SOCKET, *words)


class Traffic:
    """The receiver's servers and the sender, with the sender's latest totals."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self.totals: dict[str, float] = {}
        self._errors = directory / "traffic.log"
        self._lab = lab
        self._children = contextlib.ExitStack()

    def __enter__(self) -> "Traffic":
        try:
            receiver = self._start("receiver", "receive")
            if receiver.stdout.readline().strip() != "listening":
                raise Failed(f"the receiver does not listen:\n{self.errors()}")
            self._sender = self._start("sender", "send")
            self._reader = threading.Thread(target=self._read, daemon=True)
            self._reader.start()
        except BaseException:
            hold_signals()
            self._children.close()
            raise
        return self

    def __exit__(self, *_exc) -> None:
        self._children.close()

    def _start(self, role: str, part: str) -> Process:
        script = Path(__file__).with_name("traffic.py")
        tags = "stack" if self._lab.vlan_devices else "raw"
        with self._errors.open("a") as errors:
            child = Process(self._lab.inside(role, sys.executable, "-B", script, part, tags),
                            text=True, stdout=subprocess.PIPE, stderr=errors)
        self._children.callback(child.stop)
        return child

    def _read(self) -> None:
        for line in self._sender.stdout:
            self.totals = json.loads(line)

    def finish(self) -> None:
        """Ends the sender in order: what it has begun, it completes."""
        self._sender.stop()
        self._reader.join(STOP_S)

    def errors(self) -> str:
        return self._errors.read_text(errors="replace").rstrip() if self._errors.exists() else ""


# --- what is shown ------------------------------------------------------------------------------

class Reading:
    """All counters at one moment; of devices since `base`."""

    def __init__(self, lab: Lab, broker: Broker, traffic: Traffic | None,
                 base: "Reading | None" = None) -> None:
        self.at = time.monotonic()
        self.stats = broker.stats()
        self.sent = dict(traffic.totals) if traffic else {}
        self._absolute = {role: lab.counters(role) for role in PORTS.values()}
        self._absolute |= {port: lab.counters("tap", port) for port in PORTS}
        self._base = base._absolute if base else {}
        self._base_stats = base.stats if base else {"monitors": []}

    @classmethod
    def of_a_quiet_moment(cls, lab: Lab, broker: Broker) -> "Reading":
        """A base: nothing was sent between the look at the broker's counters and at the others."""
        while True:
            base = cls(lab, broker, None)
            if broker.stats()["monitors"] == base.stats["monitors"]:
                return base

    def device(self, name: str, counter: str) -> int:
        return self._absolute[name][counter] - self._base.get(name, {}).get(counter, 0)

    def sent_to(self, name: str, counter: str) -> int:
        """Of a monitor, since `base`."""
        now, then = (next((monitor[counter] for monitor in stats["monitors"]
                           if monitor["name"] == name), 0)
                     for stats in (self.stats, self._base_stats))
        return now - then

    def tap_port(self, name: str) -> dict:
        return next(port for tap in self.stats["taps"] for port in tap["ports"]
                    if port["name"] == name)


def rate(new: float, old: float, seconds: float) -> str:
    return f"{(new - old) / seconds:,.0f}"


def screen(now: Reading, before: Reading, left: float | None) -> str:
    seconds = max(now.at - before.at, 1e-3)
    sent, had = now.sent, before.sent

    def per_second(name: str) -> str:
        return rate(sent.get(name, 0), had.get(name, 0), seconds)

    bulk_s = sent.get("bulk_s", 0) - had.get("bulk_s", 0)
    bulk = (sent.get("bulk_bytes", 0) - had.get("bulk_bytes", 0)) * 8e-9 / bulk_s if bulk_s else 0
    lines = [
        f"{'running' if left is None else f'{left:.0f} s left'} - web {per_second('web')}/s, "
        f"names {per_second('names')}/s, VLAN {VLAN} {per_second('vlan')}/s, "
        f"flood {per_second('flood')}/s, ping {sent.get('ping_ms', 0):.2f} ms, "
        f"TCP bulk {bulk:.1f} Gbit/s, lost {sent.get('lost', 0):.0f}", "",
        f"{'':24}{'frames/s':>12}{'Mbit/s':>10}{'frames':>14}"]

    def row(name: str, frames: int, old_frames: int, size: int, old_size: int) -> None:
        megabits = (size - old_size) * 8e-6 / seconds
        lines.append(f"{name:24}{rate(frames, old_frames, seconds):>12}{megabits:>10,.1f}"
                     f"{frames:>14,}")

    for port, way in (("eth1", "eth1 -> eth2"), ("eth2", "eth2 -> eth1")):
        new, old = now.tap_port(port), before.tap_port(port)
        row(f"passes {way}", new["passed_frames"], old["passed_frames"], new["rx_bytes"],
            old["rx_bytes"])
    for role in ("ids", "recorder"):
        row(f"arrives at {role}", now.device(role, "rx_packets"),
            before.device(role, "rx_packets"), now.device(role, "rx_bytes"),
            before.device(role, "rx_bytes"))
    lines += ["", *policy_table(now.stats)]
    return "\n".join(lines)


def policy_table(stats: dict) -> list[str]:
    lines = [f"{'policy':16}{'to':10}{'matched':>12}{'sampled out':>13}{'metered out':>13}"
             f"{'sent':>12}{'already sent':>14}"]
    for policy in stats["policies"]:
        for to in policy["monitors"]:
            lines.append(
                f"{policy['name']:16}{to['name']:10}{policy['matched_frames']:>12,}"
                f"{policy['dropped']['sample']:>13,}{policy['dropped']['meter']:>13,}"
                f"{to['sent_frames']:>12,}{to['already_sent']:>14,}")
    return lines


def show(text: str) -> None:
    print(f"\x1b[H\x1b[2J{text}\n\nCtrl-C ends" if TERMINAL else f"{text}\n", flush=True)


# --- the verdict --------------------------------------------------------------------------------

def equations(end: Reading) -> list[tuple[str, int, int]]:
    """What must be equal once traffic has stopped: (what, one side, the other)."""
    rows: list[tuple[str, int, int]] = []
    for here, there, way in (("sender", "receiver", ("eth1", "eth2")),
                             ("receiver", "sender", ("eth2", "eth1"))):
        rows.append((f"packets the {here} sent = the {there} got", end.device(here, "tx_packets"),
                     end.device(there, "rx_packets") + end.device(way[1], "tx_dropped")))
    sent: dict[str, int] = {}
    for policy in end.stats["policies"]:
        for to in policy["monitors"]:
            sent[to["name"]] = sent.get(to["name"], 0) + to["sent_frames"]
            rows.append((f"policy {policy['name']}: matched = dropped + sent + already sent "
                         f"({to['name']})", policy["matched_frames"],
                         sum(policy["dropped"].values()) + to["sent_frames"] + to["already_sent"]))
    for port in ("eth1", "eth2"):
        tap = end.tap_port(port)
        rows.append((f"tap {port}: rx = passed + consumed + not passed", tap["rx_frames"],
                     tap["passed_frames"] + tap["consumed_frames"] +
                     sum(tap["not_passed"].values())))
        rows.append((f"tap {port}: matched = copied + missed", tap["matched_frames"],
                     tap["copied_frames"] + sum(tap["missed"].values())))
    for monitor in end.stats["monitors"]:
        name = monitor["name"]
        rows.append((f"monitor {name}: sent by policies = tx + dropped", sent[name],
                     monitor["tx_frames"] + sum(monitor["dropped"].values())))
        rows.append((f"monitor {name}: frames sent = frames arrived there",
                     end.sent_to(name, "tx_frames"),
                     end.device(name, "rx_packets")))
        rows.append((f"monitor {name}: bytes sent = bytes arrived there",
                     end.sent_to(name, "tx_bytes"),
                     end.device(name, "rx_bytes")))
    return rows


def settle(read) -> Reading:
    """The counters once they have come to rest."""
    deadline = time.monotonic() + SETTLE_S
    end = read()
    while any(left != right for _, left, right in equations(end)) and time.monotonic() < deadline:
        time.sleep(0.1)
        end = read()
    return end


def verdict(end: Reading, sent: dict[str, float]) -> bool:
    """Prints the final table; whether all is well."""
    print("\n".join(policy_table(end.stats)), "\n", sep="")
    good = True
    for what, left, right in equations(end):
        good &= left == right
        mark = "ok" if left == right else "WRONG"
        print(f"{mark:6} {what:71} {left:>12,} {'=' if left == right else '!='} {right:,}")
    checks = {f"exchanges lost or changed on the way: {sent.get('lost', 0):.0f}":
              sent.get("lost", 0) == 0}
    checks |= {f"{text} {sent.get(name, 0):,.0f}": sent.get(name, 0) > 0 for name, text in
               (("web", "web pages delivered:"), ("names", "names answered:"),
                ("vlan", f"datagrams answered in VLAN {VLAN}:"), ("ping", "pings answered:"),
                ("bulk_bytes", "bytes of bulk TCP delivered:"))}
    checks |= {f"copies arrived at {role}": end.device(role, "rx_packets") > 0
               for role in ("ids", "recorder")}
    for text, well in checks.items():
        good &= well
        print(f"{'ok' if well else 'WRONG':6} {text}")
    return good


# --- the run ------------------------------------------------------------------------------------

def demonstrate(build: Path, seconds: float | None) -> bool:
    with contextlib.ExitStack() as stack:
        def enter(part):
            entered = stack.enter_context(part)
            stack.callback(hold_signals)
            return entered

        directory = Path(enter(tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-")))
        lab = enter(Lab())
        broker = enter(Broker(lab, build, directory))
        print(broker.log(), "\n", flush=True)
        base = Reading.of_a_quiet_moment(lab, broker)
        traffic = enter(Traffic(lab, directory))
        watch(lambda: Reading(lab, broker, traffic, base), broker, seconds)
        print("\nending the traffic; the final count:\n", flush=True)
        traffic.finish()
        end = settle(lambda: Reading(lab, broker, traffic, base))
        good = verdict(end, traffic.totals)
        if not good:
            print(f"\nbroker:\n{broker.log()}\n\ntraffic:\n{traffic.errors()}", file=sys.stderr)
        return good


def watch(read, broker: Broker, seconds: float | None) -> None:
    """Shows what goes on, until the time is over or Ctrl-C. Elsewhere than on a terminal one
    screen in five seconds is enough."""
    end = None if seconds is None else time.monotonic() + seconds
    pause = 1.0 if TERMINAL else 5.0
    before = read()
    with contextlib.suppress(KeyboardInterrupt):
        while (left := None if end is None else end - time.monotonic()) is None or left > 0:
            time.sleep(pause if left is None else min(pause, left))
            broker.alive()
            now = read()
            show(screen(now, before, None if end is None else max(0.0, end - time.monotonic())))
            before = now


def terminated(*_) -> None:
    sys.exit(128 + signal.SIGTERM)


def main() -> int:
    parser = argparse.ArgumentParser(prog="demo.sh", description=__doc__.splitlines()[0])
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=float, default=20, help="how long (default: 20)")
    length.add_argument("--forever", action="store_true", help="until Ctrl-C")
    parser.add_argument("--build", type=Path, required=True, help=argparse.SUPPRESS)
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, terminated)
    build = options.build.resolve()
    remove_stale(binary_of(build))
    try:
        good = demonstrate(build, None if options.forever else options.seconds)
    except Failed as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: ended", file=sys.stderr)
        return 128 + signal.SIGINT
    print(f"\n{'All counts agree.' if good else 'Some counts do NOT agree.'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
