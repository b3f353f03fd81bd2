# SPDX-License-Identifier: Apache-2.0
"""The doctor: each finding is provoked, mended by the very command that it gives, and gone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import packets
from broker import (Broker, broker_binary, config, inline, monitors, policy, run_broker,
                    simple_config)
from lab import Lab, assert_restored, bpf_object, carry, differences, snapshot

FIELDS = {"id", "severity", "subject", "what", "why", "fix", "safe", "fixed"}
XDP = {"capture": "tee", "hook": "xdp"}


@contextmanager
def configured(lab: Lab, text: str) -> Iterator[Broker]:
    """A config on disk with no broker that runs it."""
    one = Broker(lab, text)
    try:
        yield one
    finally:
        one.discard()


def doctor(lab: Lab, one: Broker, *words: str, launcher: tuple[str, ...] = ()) -> list[dict]:
    done = run_broker(lab, "-c", one.file, "--doctor", "--json", *words, launcher=launcher)
    assert done.returncode in (0, 1), done.stderr
    findings = json.loads(done.stdout)["findings"]
    assert all(set(each) == FIELDS for each in findings), findings
    errors = [each for each in findings if each["severity"] == "error" and not each["fixed"]]
    assert done.returncode == (1 if errors else 0)
    return findings


def serious(findings: list[dict]) -> list[dict]:
    return [each for each in findings if each["severity"] in ("warning", "error")]


def only(findings: list[dict], name: str, subject: str | None = None) -> dict:
    found = [each for each in findings
             if each["id"] == name and subject in (None, each["subject"])]
    assert len(found) == 1, f"one {name} of {subject} expected: {findings}"
    assert found[0]["what"] and found[0]["why"]
    return found[0]


def paste(lab: Lab, finding: dict) -> None:
    """Runs the command as a shell takes it, in the tap's namespace."""
    lab.tap_ns.run("bash", "-ec", finding["fix"])


def mended(lab: Lab, one: Broker, name: str, subject: str, severity: str,
           *words: str) -> dict:
    """The finding is there, and nothing else is serious; its command makes it go."""
    finding = only(doctor(lab, one), name, subject)
    assert finding["severity"] == severity
    for word in words:
        assert word in finding["what"] + finding["why"], finding
    paste(lab, finding)
    assert not serious(doctor(lab, one))
    return finding


# --- what is fine -------------------------------------------------------------------------------

def test_clean_lab_has_no_warning_and_is_not_touched() -> None:
    with Lab() as lab, configured(lab, simple_config()) as one:
        before = snapshot(lab.tap_ns)
        findings = doctor(lab, one)
        assert not serious(findings)
        assert not differences(before, snapshot(lab.tap_ns))
        assert "ok" not in {each["severity"] for each in findings}
        verbose = doctor(lab, one, "--verbose")
        assert [each for each in verbose if each["severity"] != "ok"] == findings
        fine = {each["id"] for each in verbose if each["severity"] == "ok"}
        lacks = [each["what"] for each in findings if each["id"] == "kernel-feature"]
        assert fine >= {"capabilities", "memlock", "bpffs", "xdp-features"}
        assert ("kernel-feature" in fine) == (not lacks)


def test_running_broker_is_fine_and_so_are_its_stubs() -> None:
    with Lab(napi_ends=True) as lab:
        for end in (lab.left, lab.right):
            end.port.offload("txvlan", "off", "tx-vlan-stag-hw-insert", "off")
        for keys in ({}, XDP):
            with Broker(lab, simple_config(keys)) as running:
                assert not serious(doctor(lab, running))
                running.kill()
                assert not serious(doctor(lab, running))


def test_text_is_for_people() -> None:
    with Lab() as lab, configured(lab, simple_config()) as one:
        lab.port("m0").down()
        shown = run_broker(lab, "-c", one.file, "--doctor")
        assert shown.returncode == 0
        lines = shown.stdout.splitlines()
        assert lines[0].startswith("warning: m0: ") and lines[0].endswith("[link-down]")
        assert lines[1].startswith("    why: ")
        assert lines[2] == "    fix: ip link set dev m0 up"
        assert lines[-1].startswith("0 errors, 1 warning, ")


def test_usage() -> None:
    with Lab() as lab, configured(lab, "[broker]\nnonsense = 1\n") as one:
        assert run_broker(lab, "-c", one.file, "--doctor").returncode == 2
        assert run_broker(lab, "-c", one.file, "--fix").returncode == 2
        assert run_broker(lab, "-c", one.file, "--json").returncode == 2


# --- what a broker refuses to start with --------------------------------------------------------

def test_foreign_xdp_program() -> None:
    for mode in ("xdp", "xdpgeneric"):
        with Lab() as lab, configured(lab, simple_config()) as one:
            lab.port("t0").set(f"{mode} obj {bpf_object()} sec xdp_foreign")
            shown = json.loads(lab.tap_ns.run("ip", "-j", "link", "show", "t0").stdout)[0]
            number = shown["xdp"]["prog"]["id"]
            finding = mended(lab, one, "foreign-xdp", "t0", "error", "foreign_prog", f"id {number}")
            assert finding["fix"] == f"ip link set dev t0 {mode} off"


def test_port_that_is_not_there() -> None:
    with Lab() as lab, configured(lab, simple_config()) as one:
        lab.port("t1").delete()
        finding = only(doctor(lab, one), "no-port", "t1")
        assert finding["severity"] == "error"


def test_master_and_uppers() -> None:
    with Lab() as lab, configured(lab, simple_config()) as one:
        lab.tap_ns.ip("link add br0 type bridge", "link set t0 master br0")
        finding = mended(lab, one, "master", "t0", "error", "bridge")
        assert finding["fix"] == "ip link set dev t0 nomaster"
        lab.tap_ns.ip("link add mv0 link m0 type macvlan")
        finding = mended(lab, one, "uppers", "m0", "error")
        assert finding["fix"] == "ip link del dev mv0"


def test_default_route_at_a_monitor_and_at_a_tap() -> None:
    with Lab() as lab, configured(lab, simple_config()) as one:
        lab.port("m0").address("10.9.0.1/24")
        lab.tap_ns.ip("route add default via 10.9.0.2 dev m0")
        mended(lab, one, "default-route", "m0", "error", "mon0")
        lab.port("t1").address("10.8.0.1/24")
        lab.tap_ns.ip("route add default via 10.8.0.2 dev t1")
        finding = only(doctor(lab, one), "default-route", "t1")
        line = finding["fix"].partition("#")[0].strip()
        one.file.write_text(one.file.read_text().replace('name = "wire"', f'name = "wire"\n{line}'))
        assert not serious(doctor(lab, one))


def test_default_route_of_ipv6() -> None:
    with Lab() as lab, configured(lab, simple_config()) as one:
        lab.port("m0").address("fd00::5/64")
        lab.tap_ns.ip("route add default via fd00::6 dev m0")
        finding = only(doctor(lab, one), "default-route", "m0")
        assert finding["fix"].startswith("ip -6 route del default dev m0 ")
        paste(lab, finding)
        assert {each["id"] for each in serious(doctor(lab, one))} == {"ipv6"}


def test_broker_starts_when_errors_are_mended() -> None:
    """What the doctor calls an error is what the broker refuses, and the other way round."""
    with Lab() as lab:
        lab.open_wires()
        lab.tap_ns.ip("link add br0 type bridge", "link set t0 master br0")
        one = Broker(lab, simple_config())
        refused = run_broker(lab, "-c", one.file)
        assert refused.returncode == 2 and "bridge" in refused.stderr
        paste(lab, only(doctor(lab, one), "master"))
        with one:
            carry(packets.random_frames(10, seed=1), lab.left, lab.right, lab.monitors)


# --- ports --------------------------------------------------------------------------------------

def test_links_that_are_down() -> None:
    with Lab() as lab, configured(lab, simple_config()) as one:
        lab.port("t0").down()
        finding = only(doctor(lab, one), "link-down", "t0")
        assert finding["fix"] == "ip link set dev t0 up"
        assert not finding["safe"], "whoever took it down may have had a reason"
        paste(lab, finding)
        assert not serious(doctor(lab, one))
        lab.left.port.down()
        finding = mended(lab, one, "link-down", "t0", "warning", "no carrier")
        assert lab.left_ns.name in finding["fix"] and "l0 up" in finding["fix"]


def test_mtu_of_a_monitor() -> None:
    with Lab() as lab, configured(lab, simple_config()) as one:
        lab.port("m0").set("mtu 1400")
        finding = mended(lab, one, "mtu-monitor", "m0", "warning", "1400", "1500")
        assert finding["fix"] == "ip link set dev m0 mtu 1500"
    with Lab() as lab, configured(lab, simple_config(slice=128)) as one:
        lab.port("m0").set("mtu 1400")
        assert not serious(doctor(lab, one)), "copies are shorter than that"


def test_mtu_between_inline_ports() -> None:
    with Lab() as lab, configured(lab, simple_config()) as one:
        lab.port("t0").set("mtu 1400")
        finding = mended(lab, one, "mtu-inline", "t0", "warning", "1400", "1500")
        assert finding["fix"] == "ip link set dev t0 mtu 1500"


def test_mtu_and_the_frames_of_the_umem() -> None:
    with Lab(mtu=3000) as lab, configured(lab, simple_config()) as one:
        findings = doctor(lab, one)
        assert {each["subject"] for each in serious(findings)} == {"t0", "t1"}
        line = only(findings, "mtu-frame-size", "t0")["fix"].partition("#")[0]
        one.file.write_text(one.file.read_text().replace("[broker]\n", f"[broker]\n{line}\n"))
        assert not serious(doctor(lab, one))
        for name in ("t0", "t1"):
            lab.port(name).set("mtu 9000")
        findings = doctor(lab, one)
        for name in ("t0", "t1"):
            paste(lab, only(findings, "mtu-frame-size", name))
        # The monitor's MTU was that of the taps before.
        assert {each["id"] for each in serious(doctor(lab, one))} == {"mtu-monitor"}
        paste(lab, only(doctor(lab, one), "mtu-monitor", "m0"))
        assert not serious(doctor(lab, one))


def test_global_ipv6_address() -> None:
    with Lab() as lab, configured(lab, simple_config()) as one:
        lab.port("m0").address("fd00::5/64")
        mended(lab, one, "ipv6", "m0", "warning", "IPv6 address")


# --- XDP ----------------------------------------------------------------------------------------

def test_forced_xdp_on_veth() -> None:
    """Offloads on and no GRO at the other ends, in other namespaces; once mended, it works."""
    with Lab() as lab:
        lab.open_wires()
        one = Broker(lab, simple_config(XDP))
        findings = doctor(lab, one)
        assert {(each["id"], each["severity"]) for each in serious(findings)} == \
            {("unfinished-frames", "warning"), ("no-ndo-xmit", "error")}
        for name, end in (("t0", lab.left), ("t1", lab.right)):
            xmit = only(findings, "no-ndo-xmit", name)
            assert xmit["fix"] == \
                f"ip netns exec {end.port.ns.name} ethtool -K {end.port.name} gro on"
            frames = only(findings, "unfinished-frames", name)
            assert "tx-checksum-ip-generic off" in frames["fix"]
            paste(lab, xmit)
            paste(lab, frames)
        assert not serious(doctor(lab, one))
        with one:
            assert not serious(doctor(lab, one))
            carry(packets.random_frames(50, seed=1), lab.left, lab.right, lab.monitors)
            lab.left.port.offload("gro", "off")
            only(doctor(lab, one), "no-ndo-xmit", "t0")


def test_pair_within_the_namespace() -> None:
    with Lab() as lab:
        lab.tap_ns.ip("link add x0 type veth peer name x1", "link set x0 up", "link set x1 up")
        tap = {"name": "host", "mode": "host", "ports": ["x0"], "direction": "ingress", **XDP}
        with configured(lab, config([tap], monitors(1), [policy()])) as one:
            finding = mended(lab, one, "unfinished-frames", "x0", "warning")
            assert finding["fix"].startswith("ethtool -K x1 ")


def test_span_without_native_xdp() -> None:
    with Lab() as lab:
        lab.tap_ns.ip("link add br0 type bridge", "link set br0 up", "link set t0 master br0")
        tap = {"name": "feed", "mode": "span", "ports": ["br0"]}
        with configured(lab, config([tap], monitors(1), [policy(offload="never")])) as one:
            finding = only(doctor(lab, one), "generic-xdp", "br0")
            keys = finding["fix"].partition("#")[0].strip().replace(", ", "\n")
            one.file.write_text(
                one.file.read_text().replace('mode = "span"', f'mode = "span"\n{keys}'))
            assert not serious(doctor(lab, one))


def test_filters_of_others() -> None:
    """Behind ours they are no finding; before copies that are cloned to a port they are."""
    with Lab() as lab:
        lab.port("t0").attach_tc("ingress", "tc_pop")
        with configured(lab, simple_config()) as one:
            assert not serious(doctor(lab, one))
            finding = only(doctor(lab, one, "--verbose"), "foreign-tc", "t0")
            assert "pop_tag" in finding["what"] and finding["severity"] == "ok"
            paste(lab, finding)
            assert "foreign-tc" not in {each["id"] for each in doctor(lab, one, "--verbose")}
        lab.port("m0").attach_tc("egress", "tc_push")
        with configured(lab, simple_config()) as one:
            assert not serious(doctor(lab, one)), "AF_XDP goes past TC"
        with configured(lab, simple_config({"hook": "tc"}, offload="require")) as one:
            mended(lab, one, "foreign-tc", "m0", "warning", "push_tag")


# --- settings that somebody turned while a broker runs -----------------------------------------

def test_settings_that_were_turned() -> None:
    with Lab(ipv6=("tap",)) as lab:
        before = snapshot(lab.tap_ns)
        with Broker(lab, simple_config()) as running:
            for turn, name in (
                    (lambda: lab.port("t0").set("promisc off"), "promisc"),
                    (lambda: lab.port("t0").offload("txvlan", "on"), "vlan-offload"),
                    (lambda: lab.tap_ns.sysctl("net/ipv6/conf/t0/disable_ipv6", "0"), "ipv6"),
                    (lambda: lab.port("t0").offload("gro", "on"), "gro")):
                assert not serious(doctor(lab, running))
                turn()
                assert mended(lab, running, name, "t0", "warning")["safe"]
        assert_restored(before, lab.tap_ns)


def test_fix_does_what_is_safe() -> None:
    with Lab(ipv6=("tap",)) as lab:
        before = snapshot(lab.tap_ns)
        with Broker(lab, simple_config()) as running:
            lab.port("t0").set("promisc off")
            lab.port("t1").offload("txvlan", "on")
            lab.tap_ns.sysctl("net/ipv6/conf/t1/disable_ipv6", "0")
            lab.port("m0").down()
            found = doctor(lab, running, "--fix")
            for name in ("promisc", "vlan-offload", "ipv6"):
                assert only(found, name)["fixed"], name
            assert not only(found, "link-down")["fixed"]
            assert {each["id"] for each in serious(doctor(lab, running))} == {"link-down"}
            assert "PROMISC" in lab.tap_ns.run("ip", "link", "show", "t0").stdout
            lab.port("m0").up()
        assert_restored(before, lab.tap_ns)


def test_fix_of_what_the_broker_never_turned_is_left_to_it() -> None:
    """GRO was off before: the journal of the running broker has no value to restore."""
    with Lab() as lab, Broker(lab, simple_config()) as running:
        lab.port("t0").offload("gro", "on")
        finding = only(doctor(lab, running, "--fix"), "gro", "t0")
        assert not finding["fixed"] and "not mended" in finding["what"]


def test_fix_after_a_crash_is_undone_by_detach() -> None:
    """The stubs are left, nobody holds the ports: what the doctor turns is journalled."""
    with Lab() as lab:
        with Broker(lab, simple_config()) as running:
            running.kill()
            lab.port("t0").offload("gro", "on")
            lab.port("t0").set("promisc off")
            now = lab.tap_ns.run("ethtool", "-k", "t0").stdout
            assert "generic-receive-offload: on" in now
            found = doctor(lab, running, "--fix")
            assert only(found, "gro")["fixed"] and only(found, "promisc")["fixed"]
            assert "generic-receive-offload: off" in lab.tap_ns.run("ethtool", "-k", "t0").stdout
            assert "PROMISC" in lab.tap_ns.run("ip", "link", "show", "t0").stdout
            running.detach()
            assert "generic-receive-offload: on" in lab.tap_ns.run("ethtool", "-k", "t0").stdout
            assert "PROMISC" not in lab.tap_ns.run("ip", "link", "show", "t0").stdout


# --- the process --------------------------------------------------------------------------------

def test_dropped_capabilities() -> None:
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    with Lab() as lab, configured(lab, simple_config()) as one:
        program = one.directory / "vtap-broker"
        shutil.copy(broker_binary(), program)

        def ask() -> list[dict]:
            done = lab.tap_ns.run(*nobody, program, "-c", one.file, "--doctor", "--json",
                                  check=False)
            assert done.returncode in (0, 1), done.stderr
            return json.loads(done.stdout)["findings"]

        finding = only(ask(), "capabilities")
        assert finding["severity"] == "error"
        for name in ("CAP_NET_ADMIN", "CAP_BPF", "CAP_IPC_LOCK", "CAP_SYS_ADMIN"):
            assert name in finding["what"]
        assert str(program) in finding["fix"]
        paste(lab, finding)
        assert not serious(ask())


def test_capability_that_is_out_of_reach() -> None:
    with Lab() as lab, configured(lab, simple_config()) as one:
        launcher = ("setpriv", "--bounding-set=-perfmon")
        finding = only(doctor(lab, one, launcher=launcher), "capabilities")
        assert "missing privilege: CAP_PERFMON;" in finding["what"]
        assert "CapabilityBoundingSet=" in finding["fix"] and "setcap" not in finding["fix"]


def may_raise_limits() -> bool:
    status = Path("/proc/self/status").read_text()
    mask = int(next(line for line in status.splitlines() if line.startswith("CapEff")).split()[1],
               16)
    return bool(mask >> 24 & 1)  # CAP_SYS_RESOURCE


def test_memlock() -> None:
    drop = "setpriv --bounding-set=-ipc_lock,-sys_resource"
    little = ("prlimit", "--memlock=65536:")
    text = config([inline()], monitors(1), [policy()], umem={"frames": 1024, "frame_size": 2048})
    with Lab() as lab, configured(lab, text) as one:
        finding = only(doctor(lab, one, launcher=(*little, *drop.split())), "memlock")
        assert finding["severity"] == "error"
        assert "65536 bytes" in finding["what"] and f"{1024 * 2048}" in finding["what"]
        # Where this machine lets nobody raise the limit, as far as it may be.
        fix = finding["fix"] if may_raise_limits() else "ulimit -S -l $(ulimit -H -l)"
        shell = ("bash", "-ec", f'{fix}\nexec {drop} "$@"', "bash")
        after = doctor(lab, one, launcher=(*little, *shell))
        assert {each["id"] for each in serious(after)} == {"capabilities"}
        # Who may lock without a limit has no finding.
        assert not serious(doctor(lab, one, launcher=little))


def test_hidden_bpffs() -> None:
    with Lab() as lab, configured(lab, simple_config()) as one:
        hidden = ("ip", "netns", "exec", lab.tap_ns.name)
        finding = only(doctor(lab, one, launcher=hidden), "bpffs")
        assert finding["severity"] == "hint" and finding["safe"]
        shell = ("bash", "-ec", f'{finding["fix"]}\nexec "$@"', "bash")
        assert "bpffs" not in {each["id"]
                               for each in doctor(lab, one, launcher=(*hidden, *shell))}
        assert only(doctor(lab, one, "--fix", launcher=hidden), "bpffs")["fixed"]


# --- queues -------------------------------------------------------------------------------------

def test_more_workers_than_queues() -> None:
    span = {"name": "feed", "mode": "span", "ports": ["t0"]}
    with Lab(queues=1) as lab:
        lab.left.port.offload("tx", "off", "tso", "off", "txvlan", "off",
                              "tx-vlan-stag-hw-insert", "off")
        text = config([span], monitors(1), [policy(offload="never")], workers=2)
        with configured(lab, text) as one:
            findings = doctor(lab, one)
            finding = only(findings, "idle-workers")
            assert finding["severity"] == "hint"
            one.file.write_text(one.file.read_text().replace(
                "workers = 2", finding["fix"].partition("#")[0].strip()))
            assert "idle-workers" not in {each["id"] for each in doctor(lab, one)}
