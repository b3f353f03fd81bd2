# SPDX-License-Identifier: Apache-2.0
"""The operator's side of a live broker: vtapctl with all its commands, the API's promises where the
documents show no command for them (test_docs.py runs those), and the doctor from within."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import shlex
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import packets
from broker import (Broker, broker_binary, by_name, config, inline, monitors, policy, run_broker,
                    vtapctl_binary)
from lab import (Lab, Port, assert_restored, carry, eventually, kernel_tells_xdp,
                 snapshot)
from stranger import Machine
from traffic import BothWays

TCP = [packets.ip_frame("tcp", b"%d" % n) for n in range(40)]
DNS = [packets.ip_frame("udp", b"%d" % n, dport=53) for n in range(40)]
ONLY_TCP = {"match": [{"proto": "tcp"}]}


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(monitors=2) as made:
        made.open_wires()
        yield made


@pytest.fixture
def running(lab: Lab) -> Iterator[Broker]:
    """One wire, mon0 with its TCP; m1 is free."""
    with Broker(lab, config([inline()], monitors(1), [policy("web", **ONLY_TCP)])) as made:
        yield made


class Ctl:
    """vtapctl at a broker; text and --json of each command."""

    def __init__(self, at: Broker) -> None:
        self.at = at

    def __call__(self, *words: str, code: int = 0,
                 stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        done = self.at.ns.run(vtapctl_binary(), "--socket", self.at.socket, *words, check=False,
                              stdin=stdin)
        assert done.returncode == code, (words, done)
        assert bool(done.stderr) == (code != 0 and not done.stdout), (words, done)
        return done

    def json(self, *words: str, code: int = 0) -> dict:
        return json.loads(self(*words, "--json", code=code).stdout)


# --- what runs ----------------------------------------------------------------------------------

def test_status_and_stats(lab: Lab, running: Broker) -> None:
    ctl = Ctl(running)
    carry(TCP, lab.left, lab.right, [lab.monitor(0)])
    shown = ctl("status").stdout
    for word in (running.name, "generation 1", "ready", str(running.file), "wire", "t0", "t1",
                 "web", "mon0", "m0", "Nothing is wrong."):
        assert word in shown, shown
    status = ctl.json("status")
    assert status["ready"] is True and status["config"]["persisted"] is True
    running.settled()
    assert f" {len(TCP)} " in ctl("stats").stdout
    assert by_name(ctl.json("stats"), "monitors")["mon0"]["tx_frames"] == len(TCP)
    assert ctl.json("--json", "stats")["plan"]["generation"] == 1
    lab.port("m0").down()
    assert eventually(lambda: "mon0: its port m0 is down" in ctl("status").stdout)
    lab.port("m0").up()
    assert eventually(lambda: "Nothing is wrong." in ctl("status").stdout)


def watched(running: Broker, rounds: int, *words: str, out: int) -> subprocess.Popen[bytes]:
    with running.ns.entered():
        process = subprocess.Popen(
            [vtapctl_binary(), "--socket", running.socket, "stats", "--watch", *words],
            stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE)
    time.sleep(rounds + 0.5)
    return process


def ends(process: subprocess.Popen[bytes], number: int = signal.SIGINT) -> None:
    process.send_signal(number)
    _, error = process.communicate(timeout=5)
    assert process.returncode == 0 and not error, error


def test_watch_into_a_pipe(lab: Lab, running: Broker) -> None:
    with BothWays(lab, 500):
        read, write = os.pipe()
        text = watched(running, 3, out=write)
        ends(text)
        read_json, write_json = os.pipe()
        lines = watched(running, 2, "--json", out=write_json)
        ends(lines, signal.SIGTERM)
    os.close(write), os.close(write_json)
    with os.fdopen(read) as shown, os.fdopen(read_json) as told:
        blocks = shown.read().split("Taps (per second)")[1:]
        generations = [json.loads(line)["plan"]["generation"] for line in told]
    assert len(blocks) >= 3 and "\x1b" not in "".join(blocks)
    rates = [float(re.search(r"wire +t0 +up +(\d+) pps", block)[1]) for block in blocks]
    assert all(300 < rate < 800 for rate in rates[:3]), rates
    assert len(generations) >= 3


@pytest.mark.parametrize("rows", [24, 14])
def test_watch_on_a_terminal(running: Broker, rows: int) -> None:
    """Drawn in place, no higher than the terminal (it would scroll); a broker that ends is told."""
    master, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, 60, 0, 0))
    process = watched(running, 2, out=terminal)
    shown = b""
    while select.select((master,), (), (), 0)[0]:
        shown += os.read(master, 1 << 16)
    screens = shown.split(b"\x1b[H")[1:]
    assert shown.startswith(b"\x1b[2J") and len(screens) >= 2
    for screen in screens:
        lines = re.sub(rb"\x1b\[[0-9]*[A-Z]", b"", screen).replace(b"\r", b"").split(b"\n")
        assert len(lines) <= rows and max(len(line) for line in lines) <= 60, lines
        assert lines[-1] == b"Ctrl-C ends" and (rows < 24 or b"t1" in screen)
    assert running.stop() == 0
    _, error = process.communicate(timeout=10)
    os.close(master), os.close(terminal)
    assert process.returncode == 1 and b"no vtap-broker" in error, error


# --- changes ------------------------------------------------------------------------------------

def test_policies_and_monitors_on_real_frames(lab: Lab, running: Broker) -> None:
    ctl = Ctl(running)
    first, second = lab.monitors

    def arrives(at_first: list[bytes], at_second: list[bytes]) -> None:
        lab.left.send_all(TCP + DNS)
        for monitor, expected in ((first, at_first), (second, at_second)):
            got = monitor.receive(len(expected))
            assert sorted(got) == sorted(expected), f"{len(got)} of {len(expected)} at {monitor}"
        lab.right.receive(len(TCP + DNS), quiet=0)

    arrives(TCP, [])
    said = ctl("monitor", "add", "mon1", "--port", "m1", "--rate", "1Gbit/s", "--queue", "500")
    assert said.stdout == "monitor mon1 added (generation 2, until the next reload)\n"
    assert ctl.json("monitor", "show", "mon1") == {"name": "mon1", "port": "m1",
                                                   "rate": "1Gbit/s", "queue": 500}
    assert ctl.json("policy", "add", "dns", "--monitor", "mon1", "--tap", "wire", "--proto", "udp",
                    "--dst-port", "53") == {"generation": 3}
    arrives(TCP, DNS)
    ctl("policy", "replace", "dns", "--monitor", "mon0,mon1", "--src", "10.0.0.0/8,192.168.0.0/16",
        "--dst", "10.0.0.2", "--proto", "udp", "--src-port", "1000", "--dst-port", "50-60",
        "--vlan", "none", "--filter", "udp", "--slice", "40", "--priority", "3",
        "--offload", "never", "--meter", "1Gbit/s")
    cut = [frame[:40] for frame in DNS]
    arrives(TCP + cut, cut)
    ctl("policy", "replace", "dns", "--monitor", "mon1", "--host", "10.0.0.1", "--port", "53",
        "--sample", "one_in=4")
    lab.left.send_all(DNS)
    assert len(second.receive(10)) == 10
    assert [each["name"] for each in ctl.json("policy", "list")["policies"]] == ["web", "dns"]
    assert re.search(r"dns +all +mon1", ctl("policy", "list").stdout)
    assert "one_in = 4" in ctl("policy", "show", "dns").stdout
    assert "1Gbit/s" in ctl("monitor", "list").stdout
    keys = ctl.json("policy", "show", "web")
    ctl("policy", "replace", "web", "--from", "-", stdin=json.dumps(keys | {"slice": 60}))
    lab.clear()
    lab.left.send_all(TCP)
    assert first.receive(len(TCP)) == [frame[:60] for frame in TCP]
    ctl("policy", "rm", "dns")
    ctl("policy", "replace", "web", "--monitor", "mon1", "--proto", "tcp")
    lab.clear()
    arrives([], TCP)
    ctl("monitor", "rm", "mon0")
    arrives([], TCP)
    assert ctl.json("reload")["reloaded"] is True  # nothing was written back
    lab.clear()
    arrives(TCP, [])
    running.settled()
    assert re.search(r"wire +inline +t0, t1 +auto +auto", ctl("tap", "list").stdout)
    assert ctl.json("tap", "show", "wire")["ports"] == ["t0", "t1"]
    assert ctl("config").stdout == running.file.read_text()
    assert ctl.json("config")["config"]["monitor"] == [{"name": "mon0", "port": "m0"}]


REFUSED = {
    "no such monitor": (2, ["policy", "add", "x", "--monitor", "nope"], "mon0"),
    "it exists": (1, ["policy", "add", "web", "--monitor", "mon0"], "already"),
    "no such policy": (1, ["policy", "rm", "nope"], "nope"),
    "to show": (1, ["monitor", "show", "nope"], "nope"),
    "still used": (2, ["monitor", "rm", "mon0"], "mon0"),
    "no such port": (2, ["monitor", "add", "x", "--port", "nowhere9"], "nowhere9"),
    "port of a tap": (2, ["monitor", "add", "x", "--port", "t0"], "t0"),
    "bad filter": (2, ["policy", "add", "x", "--monitor", "mon0", "--filter", "nonsense ("],
                   "filter"),
    "bad address": (2, ["policy", "add", "x", "--monitor", "mon0", "--src", "10.0.0.300"], "src"),
    "kernel cannot": (2, ["policy", "add", "x", "--monitor", "mon0", "--slice", "60",
                          "--offload", "require"], "offload"),
    "in use": (2, ["detach", "t0"], "in use"),
}


def test_what_the_broker_refuses_changes_nothing(lab: Lab, running: Broker) -> None:
    """Exit codes of the manual; plan, file, ports and traffic are as before."""
    ctl = Ctl(running)
    before, text = snapshot(lab.tap_ns), running.file.read_text()
    with BothWays(lab) as traffic:
        for what, (code, words, named) in REFUSED.items():
            said = ctl(*words, code=code).stderr
            assert said.startswith("vtapctl: ") and named in said, (what, said)
            assert not said.rstrip().endswith("there are"), (what, said)
            if words[0] != "detach" and "show" not in words:
                assert named in ctl(*words, "--persist", "--json", code=code).stderr
        assert ctl.json("config")["generation"] == 1
        assert running.file.read_text() == text and ctl("config").stdout == text
        assert sorted(os.listdir(running.directory)) == ["control.sock", "log", "tap.toml"]
        assert_restored(before, lab.tap_ns)
    traffic.assert_complete()
    lab.clear()
    carry(TCP, lab.left, lab.right, [lab.monitor(0)])
    running.settled()


BAD_USAGE = [
    ["nonsense"], [], ["policy"], ["policy", "add"], ["policy", "add", "x"],
    ["policy", "add", "x", "--monitor", "mon0", "--slice", "-1"],
    ["policy", "add", "x", "--monitor", "mon0", "--offload", "perhaps"],
    ["policy", "add", "x", "--from", "/no/such/file"], ["monitor", "add", "x"],
    ["monitor", "list", "--persist"], ["stats", "--wacth"], ["tap", "add", "x"],
    ["capture", "--policy", "a", "--tap", "b"], ["completion", "tcsh"],
    ["--token-file", "/dev/null", "status"], ["--url", "ftp://x", "status"],
]


def test_exit_codes_of_usage_and_of_no_broker(lab: Lab, running: Broker) -> None:
    ctl = Ctl(running)
    for words in BAD_USAGE:
        assert ctl(*words, code=2).stderr, words
    for words in (["nonsense"], ["policy", "nonsense"]):
        assert "there is no command or option nonsense" in ctl(*words, code=2).stderr
    for words in (["--help"], ["policy", "add", "--help"], ["--version"]):
        assert ctl(*words).stdout
    plain = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    for words in ("status", "stats", "config", "reload", "doctor", "detach"):
        done = lab.tap_ns.run(*plain, vtapctl_binary(), "--socket", running.socket, words,
                              check=False)
        assert done.returncode == 3 and "no access" in done.stderr, done
    running.kill()
    for words in (["status"], ["status", "--json"], ["stats"], ["stats", "--watch"],
                  ["policy", "list"], ["reload"], ["doctor"], ["capture", "-w", "/dev/null"]):
        assert "no vtap-broker" in ctl(*words, code=1).stderr
    gone = lab.tap_ns.run(vtapctl_binary(), "--socket", "/no/such.sock", "status", check=False)
    assert gone.returncode == 1 and "no such socket" in gone.stderr


def test_detach_of_what_a_reload_left(lab: Lab) -> None:
    text = config([inline()], monitors(1), [policy("web", **ONLY_TCP)])
    lab.tap_ns.ip("link add x0 type veth peer name x1", "link add y0 type veth peer name y1",
                  "link set x0 up", "link set y0 up", "link set x1 up", "link set y1 up")
    more = config([inline(), inline("more", ["x0", "y0"])], monitors(1),
                  [policy("web", **ONLY_TCP)])
    with Broker(lab, more) as running:
        ctl = Ctl(running)
        running.reload(text)
        assert ctl.json("status")["left_wires"] == ["x0", "y0"]
        undone = ctl.json("detach", "x0")["undone"]
        assert undone and all("x0" in line for line in undone)
        assert "y0" in ctl("detach").stdout
        assert ctl("detach").stdout == "nothing was left to undo\n"
        assert ctl.json("detach") == {"undone": []}


# --- the shell ----------------------------------------------------------------------------------

_COMPLETE = """
PATH=$(dirname "$V"):$PATH
source <(vtapctl completion bash)
complete_line() {
  COMP_LINE=$1 COMP_POINT=${#1}
  local IFS=$' \\t\\n'
  read -ra COMP_WORDS <<<"${COMP_LINE//[:=]/ & }"
  [[ $COMP_LINE == *" " ]] && COMP_WORDS+=('')
  COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
  $(complete -p vtapctl | sed 's/.*-F \\([^ ]*\\).*/\\1/') vtapctl "${COMP_WORDS[-1]}" ""
  printf '%s\\n' "${COMPREPLY[@]}"
}
"""


def completed(running: Broker, line: str) -> list[str]:
    """As bash completes the line, by the script that vtapctl prints."""
    done = running.ns.run("env", f"V={vtapctl_binary()}", "bash", "-c",
                          f'{_COMPLETE}\ncomplete_line "$1"', "bash", line)
    assert not done.stderr, done
    return done.stdout.split()


def test_bash_completes(running: Broker) -> None:
    at = f"vtapctl --socket {running.socket}"
    assert {"status", "stats", "policy", "capture", "doctor"} <= set(completed(running, at + " "))
    assert completed(running, f"{at} pol") == ["policy"]
    assert completed(running, f"{at} policy rm ") == ["web"]
    assert completed(running, f"{at} policy add x --monitor ") == ["mon0"]
    assert completed(running, f"{at} policy add x --tap w") == ["wire"]
    assert completed(running, f"{at} capture --pol") == ["--policy"]
    assert completed(running, f"{at} policy add x --offload=re") == ["require"]
    assert "t0" in completed(running, f"{at} monitor add x --port ")
    assert completed(running, f"{at} policy add x --from {running.directory}/ta") == \
        [str(running.file)]
    for shell in ("bash", "zsh", "fish"):
        script = Ctl(running)("completion", shell).stdout
        checked = subprocess.run([shell, "-n"], input=script, text=True, capture_output=True) \
            if Path("/usr/bin", shell).exists() else None
        assert script and (checked is None or checked.returncode == 0), checked


# --- the doctor within the broker ---------------------------------------------------------------

def essence(findings: list[dict]) -> set[tuple]:
    """What a finding says, but for AF_XDP sockets: those of a live broker are seen from within, and
    only there where the kernel does not tell what to expect of a port."""
    return {(each["id"], each["severity"], each["subject"], each["fix"], each["safe"],
             "" if each["id"] == "zero-copy" else each["what"]) for each in findings
            if each["id"] != "zero-copy" or kernel_tells_xdp()}


def from_outside(lab: Lab, running: Broker) -> set[tuple]:
    done = run_broker(lab, "-c", running.file, "--doctor", "--json")
    return essence(json.loads(done.stdout)["findings"])


def turn_settings(lab: Lab) -> None:
    """What somebody may do to the ports of a broker while it runs."""
    lab.port("t0").set("promisc off")
    lab.port("t1").offload("txvlan", "on")
    lab.tap_ns.sysctl("net/ipv6/conf/t1/disable_ipv6", "0")
    lab.port("m0").set("mtu 1400")


def test_doctor_sees_from_within_what_it_sees_from_outside() -> None:
    with Lab(ipv6=("tap",)) as lab:
        lab.port("t0").attach_tc("ingress", "tc_pop")
        with Broker(lab, config([inline()], monitors(1), [policy()])) as running:
            ctl = Ctl(running)
            assert essence(ctl.json("doctor")["findings"]) == from_outside(lab, running)
            turn_settings(lab)
            found = essence(ctl.json("doctor")["findings"])
            assert {"promisc", "vlan-offload", "ipv6", "mtu-monitor"} <= {each[0] for each in found}
            assert found == from_outside(lab, running)
            text = ctl("doctor").stdout
            assert "warning  t0: tap wire: t0 is not promiscuous any more" in text
            assert "mend: ip link set dev t0 promisc on" in text
            assert "0 checks are fine" not in text


def test_doctor_fixes_from_within() -> None:
    with Lab(ipv6=("tap",)) as lab:
        # Addresses come a moment after the ports.
        assert eventually(lambda: lab.tap_ns.run("ip", "-6", "addr").stdout.count("fe80") == 3)
        before = snapshot(lab.tap_ns)
        with Broker(lab, config([inline()], monitors(1), [policy()])) as running:
            ctl = Ctl(running)
            turn_settings(lab)
            found = {each["id"]: each for each in ctl.json("doctor", "--fix")["findings"]}
            for name in ("promisc", "vlan-offload", "ipv6"):
                assert found[name]["fixed"], found[name]
            assert not found["mtu-monitor"]["fixed"] and "capabilities" not in found
            assert "PROMISC" in lab.tap_ns.run("ip", "link", "show", "t0").stdout
            serious = [each["id"] for each in ctl.json("doctor")["findings"]
                       if each["severity"] != "hint"]
            assert serious == ["mtu-monitor"]
            lab.port("m0").set("mtu 1500")
            ctl("doctor", "--fix")
        assert_restored(before, lab.tap_ns)


def test_an_error_of_the_doctor_is_an_exit_code() -> None:
    with Lab(napi_ends=True) as lab:
        xdp = config([inline(capture="tee", hook="xdp")], monitors(1), [policy()])
        with Broker(lab, xdp) as running:
            ctl = Ctl(running)
            ctl("doctor")
            lab.left.port.offload("gro", "off")  # what XDP redirects to t0 vanishes now
            if not kernel_tells_xdp():  # who looks at the other end sees it, which is elsewhere
                done = run_broker(lab, "-c", running.file, "--doctor")
                assert done.returncode == 1 and "error: t0: " in done.stdout, done.stdout
                return
            found = ctl.json("doctor", code=1)["findings"]
            assert ("no-ndo-xmit", "error", "t0") in \
                {(each["id"], each["severity"], each["subject"]) for each in found}
            assert "error  t0: " in ctl("doctor", code=1).stdout
            assert "originals from t1 vanish" in ctl("status").stdout
            lab.left.port.offload("gro", "on")


def test_what_a_confined_broker_cannot_see_it_says() -> None:
    """The other ends' switches are in other namespaces: no warning in the name of those."""
    with Lab(napi_ends=True) as lab:
        for end in (lab.left, lab.right):
            end.port.offload("txvlan", "off", "tx-vlan-stag-hw-insert", "off")
        xdp = config([inline(capture="tee", hook="xdp")], monitors(1), [policy()])
        with Broker(lab, xdp) as running:
            assert "unfinished-frames" not in {each[0] for each in from_outside(lab, running)}
            found = [each for each in Ctl(running).json("doctor")["findings"]
                     if each["id"] == "unfinished-frames"]
            assert {each["subject"] for each in found} == {"t0", "t1"}
            for each in found:
                assert "cannot be seen" in each["what"]
                assert each["fix"].startswith(f"vtap-broker -c {running.file} --doctor ")
                asked = each["fix"].partition("#")[0].replace("vtap-broker", shlex.quote(
                    str(broker_binary())))
                assert lab.tap_ns.run("bash", "-c", asked, check=False).returncode == 0


def test_bpffs_is_not_for_a_confined_broker_to_mount(lab: Lab) -> None:
    hidden = ("ip", "netns", "exec", lab.tap_ns.name)
    with Broker(lab, config([inline()], monitors(1), [policy()]), launcher=hidden) as running:
        ctl = Ctl(running)
        for words in (["doctor"], ["doctor", "--fix"]):
            found = next(each for each in ctl.json(*words)["findings"] if each["id"] == "bpffs")
            assert not found["safe"] and not found["fixed"] and "not mended" not in found["what"]
            assert found["fix"] == "mount -t bpf bpf /sys/fs/bpf"


def test_status_tells_what_is_wrong_now() -> None:
    """Not what was when the config was loaded."""
    with Lab(ipv6=("tap",)) as lab, \
            Broker(lab, config([inline()], monitors(1), [policy()])) as running:
        ctl = Ctl(running)
        assert ctl("status").stdout.endswith("Nothing is wrong.\n")
        turn_settings(lab)
        assert eventually(lambda: "not promiscuous any more" in ctl("status").stdout)
        assert {"promisc", "mtu-monitor"} <= {each["id"] for each in ctl.json("status")["findings"]}
        assert eventually(lambda: "not promiscuous any more" in running.log())
        ctl("doctor", "--fix")
        assert {each["id"] for each in ctl.json("status")["findings"]} == {"mtu-monitor"}
        lab.port("m0").set("mtu 1500")
        assert eventually(lambda: "Nothing is wrong." in ctl("status").stdout)


def test_doctor_where_no_broker_runs(lab: Lab, running: Broker) -> None:
    """It says who looks at a machine then, and that does."""
    running.kill()
    for words in (["doctor"], ["doctor", "--fix"]):
        assert "`vtap-broker -c FILE --doctor`" in Ctl(running)(*words, code=1).stderr
    assert from_outside(lab, running)


# --- the config file ----------------------------------------------------------------------------

COMMENTED = """# Edge tap of site 7: ask Ann before changing it.
[broker]
# nothing special

[[tap]]
name  = "wire"        # to the provider
mode  = "inline"
ports = [ "t0", "t1" ]

# The recorder stands in the cellar.
[[monitor]]
name = "mon0"
port = "m0"

# All web traffic.
[[policy]]
name     = "web"      # a comment within
monitors = [ "mon0" ]
match    = [ { proto = "tcp" } ]   # both directions
# the end
"""


def test_persist_keeps_what_it_does_not_change(lab: Lab) -> None:
    with Broker(lab, COMMENTED) as running:
        ctl = Ctl(running)
        running.file.chmod(0o640)
        before = running.file.read_text()
        ctl("monitor", "add", "mon1", "--port", "m1")
        assert running.file.read_text() == before
        assert "not written back" in ctl("status").stdout
        said = ctl("policy", "add", "dns", "--monitor", "mon1", "--proto", "udp", "--persist")
        assert "written to the config file" in said.stdout
        after = running.file.read_text()
        assert after == ctl("config").stdout and running.file.stat().st_mode & 0o777 == 0o640
        assert 'port = "m1"' in after, "earlier changes are written as well"
        kept = iter(after.splitlines())
        assert all(line in kept for line in before.splitlines()), "each line, in its order"
        assert "not written back" not in ctl("status").stdout
        ctl("policy", "rm", "web", "--persist")
        text = running.file.read_text()
        assert "# All web traffic." in text and "a comment within" not in text
        assert "# The recorder stands in the cellar." in text
        ctl("policy", "rm", "dns")
        ctl("reload")
        assert ctl("config").stdout == text and "dns" in text
        assert sorted(os.listdir(running.directory)) == ["control.sock", "log", "tap.toml"]
        running.kill()
        running.start()  # what was written is what starts
        carry(DNS, lab.left, lab.right, [lab.monitor(1)])
        carry(TCP, lab.left, lab.right, [lab.monitor(0)], [])


def test_persist_refused_changes_nothing(lab: Lab) -> None:
    """The file was changed by somebody; it cannot be written."""
    with Broker(lab, COMMENTED) as running:
        ctl = Ctl(running)
        theirs = running.file.read_text() + "# Bob was here\n"
        running.file.write_text(theirs)
        said = ctl("policy", "rm", "web", "--persist", code=1).stderr
        assert "has changed since it was loaded" in said and "reload first" in said
        assert running.file.read_text() == theirs and ctl.json("config")["generation"] == 1
        ctl("reload")
        ctl("policy", "add", "dns", "--monitor", "mon0", "--proto", "udp", "--persist")
        assert "# Bob was here" in running.file.read_text()
        carry(TCP, lab.left, lab.right, [lab.monitor(0)])


def test_persist_without_the_right_to_write(lab: Lab) -> None:
    """As the service is: the config is root's, the broker is not."""
    with Machine(lab) as machine:
        machine.run("groupadd --system vtap; useradd --system -g vtap -d /nonexistent vtap; "
                    "usermod -a -G vtap nobody")
        machine.write("/etc/vtap/tap.toml", COMMENTED)
        machine.run("chown root:vtap /etc/vtap/tap.toml; chmod 640 /etc/vtap/tap.toml")
        machine.start("vtap-broker -c /etc/vtap/tap.toml")
        refused = machine.run("vtapctl policy rm web --persist")
        assert refused.returncode == 3 and "Permission denied" in refused.stderr, refused
        assert "the user that the broker runs as" in refused.stderr, refused
        assert machine.run("vtapctl policy list --json").stdout.count('"web"') == 1
        carry(TCP, lab.left, lab.right, [lab.monitor(0)])
        # As docs/security.md has it, and docs/operations.md.
        for name, recipe, owner in (
                ("by-group", "chgrp vtap /etc/vtap; chmod 2770 /etc/vtap; "
                             "chgrp vtap /etc/vtap/tap.toml; chmod 660 /etc/vtap/tap.toml", "660"),
                ("by-owner", "chown vtap: /etc/vtap /etc/vtap/tap.toml; "
                             "chmod 640 /etc/vtap/tap.toml", "640")):
            machine.run(recipe)
            done = machine.run(f"vtapctl policy add {name} --monitor mon0 --proto udp --persist")
            assert done.returncode == 0, done
            assert name in machine.run("cat /etc/vtap/tap.toml").stdout
            mode = machine.run("stat -c '%a %U:%G' /etc/vtap/tap.toml").stdout
            assert mode == f"{owner} vtap:vtap\n", mode


def test_status_says_why_the_last_reload_failed(lab: Lab, running: Broker) -> None:
    ctl = Ctl(running)
    text = running.file.read_text()
    running.file.write_text(text.replace('"mon0"]', '"mon9"]'))
    for words in (["reload"], ["reload", "--json"]):
        assert 'no monitor "mon9"' in ctl(*words, code=2).stderr
    assert re.search(r"the last reload failed \(.*\), the config before it runs on: "
                     r".*tap\.toml:\d+:\d+: monitors: there is no monitor \"mon9\"",
                     ctl("status").stdout)
    assert "mon9" in ctl.json("status")["last_reload"]["error"]
    carry(TCP, lab.left, lab.right, [lab.monitor(0)])
    running.file.write_text(text)
    assert ctl("reload").stdout == "reloaded (generation 2)\n"
    assert ctl("status").stdout.endswith("Nothing is wrong.\n")


# --- the control socket -------------------------------------------------------------------------

TINY = """[[tap]]
name  = "wire"
mode  = "inline"
ports = ["t0", "t1"]
[[monitor]]
name = "mon0"
port = "m0"
"""


def test_socket_is_for_the_group_vtap(lab: Lab) -> None:
    member = "setpriv --reuid=65534 --regid=65534 --groups=$(getent group vtap | cut -d: -f3)"
    with Machine(lab) as machine:
        machine.write("tap.toml", TINY)
        assert machine.run("getent group vtap").returncode != 0, "the test wants a machine without"
        machine.start("vtap-broker -c tap.toml")
        assert machine.run("stat -c '%a %G' /run/vtap/vtap.sock").stdout == "660 root\n"
        assert re.search(r"info .*/run/vtap/vtap\.sock.* no group vtap", machine.log())
        machine.stop()
        machine.run("groupadd --system vtap")
        machine.start("vtap-broker -c tap.toml")
        assert machine.run("stat -c '%a %G' /run/vtap/vtap.sock").stdout == "660 vtap\n"
        assert "group vtap" not in machine.log()
        assert machine.run(f"{member} vtapctl status").returncode == 0
        other = machine.run("setpriv --reuid=65534 --regid=65534 --clear-groups vtapctl status")
        assert other.returncode == 3 and "group" in other.stderr, other


def test_dead_brokers_do_not_hide_the_living_one(lab: Lab) -> None:
    """Their sockets stay in /run/vtap."""
    with Machine(lab) as machine:
        machine.write("tap.toml", '[broker]\nname = "dead"\n' + TINY)
        machine.start("vtap-broker -c tap.toml")
        machine.kill()
        assert "no vtap-broker at /run/vtap/dead.sock" in machine.run("vtapctl status").stderr
        machine.write("tap.toml", '[broker]\nname = "edge"\n' + TINY)
        machine.start("vtap-broker -c tap.toml")
        assert machine.run("ls /run/vtap/*.sock | wc -l").stdout == "2\n"
        done = machine.run("vtapctl status --json")
        assert done.returncode == 0 and json.loads(done.stdout)["name"] == "edge", done
