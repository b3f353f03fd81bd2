# SPDX-License-Identifier: Apache-2.0
"""The metrics endpoint, read by a real Prometheus: it says what `vtapctl stats --json` says."""

from __future__ import annotations

import os
import re
import socket
import time
import urllib.error
from collections.abc import Iterator

import pytest

import packets
from broker import CAPTURES, Broker, config, inline, monitors, policy, run_broker, tap_ports
from lab import Lab, carry, eventually, snapshot, differences
from prometheus import Prometheus, http, prometheus

ADDRESS = "127.0.0.1:9471"
URL = f"http://{ADDRESS}/metrics"
Series = dict[tuple[str, ...], float]


def text_of(address: str = ADDRESS, **tap: str) -> str:
    return config([inline(**tap)], monitors(2), [
        policy("udp", ["mon0", "mon1"], match=[{"proto": "udp"}]),
        policy("half", ["mon0"], sample={"one_in": 2}),
        policy("metered", ["mon1"], meter={"rate": "1kbit/s", "burst": "4KiB"})], metrics=address)


# Metric: its labels, and what the JSON of the statistics says of it.
def port_numbers(key: str):
    return ("tap", "port"), lambda stats: {
        (tap["name"], port["name"]): port[key] for tap in stats["taps"] for port in tap["ports"]}


def port_reasons(key: str):
    return ("tap", "port", "reason"), lambda stats: {
        (tap["name"], port["name"], reason): frames for tap in stats["taps"]
        for port in tap["ports"] for reason, frames in port[key].items()}


def numbers(kind: str, label: str, key: str):
    return (label,), lambda stats: {(item["name"],): item[key] for item in stats[kind]}


def reasons(kind: str, label: str):
    return (label, "reason"), lambda stats: {
        (item["name"], reason): frames for item in stats[kind]
        for reason, frames in item["dropped"].items()}


def pairs(key: str):
    return ("policy", "monitor"), lambda stats: {
        (item["name"], to["name"]): to[key] for item in stats["policies"]
        for to in item["monitors"]}


SAID = {
    **{f"vtap_tap_port_{key}_total": port_numbers(key)
       for key in ("rx_frames", "rx_bytes", "passed_frames", "consumed_frames", "matched_frames",
                   "copied_frames", "own_copies_frames")},
    "vtap_tap_port_missed_frames_total": port_reasons("missed"),
    "vtap_tap_port_not_passed_frames_total": port_reasons("not_passed"),
    "vtap_policy_matched_frames_total": numbers("policies", "policy", "matched_frames"),
    "vtap_policy_matched_bytes_total": numbers("policies", "policy", "matched_bytes"),
    "vtap_policy_dropped_frames_total": reasons("policies", "policy"),
    "vtap_policy_sent_frames_total": pairs("sent_frames"),
    "vtap_policy_sent_bytes_total": pairs("sent_bytes"),
    "vtap_policy_already_sent_frames_total": pairs("already_sent"),
    "vtap_monitor_tx_frames_total": numbers("monitors", "monitor", "tx_frames"),
    "vtap_monitor_tx_bytes_total": numbers("monitors", "monitor", "tx_bytes"),
    "vtap_monitor_dropped_frames_total": reasons("monitors", "monitor"),
    "vtap_monitor_waiting_frames": numbers("monitors", "monitor", "waiting_frames"),
    "vtap_plan_generation": ((), lambda stats: {(): stats["plan"]["generation"]}),
    "vtap_umem_frames": ((), lambda stats: {(): stats["umem"]["frames"]}),
}


def said(server: Prometheus, metric: str, labels: tuple[str, ...]) -> Series:
    return {tuple(series["metric"][label] for label in labels): float(series["value"][1])
            for series in server.query(metric)}


def disagreements(server: Prometheus, stats: dict) -> list[str]:
    wrong = []
    for metric, (labels, expected) in SAID.items():
        there, want = said(server, metric, labels), expected(stats)
        if there != want:
            wrong.append(f"{metric}: Prometheus {there}, JSON {want}")
    return wrong


@pytest.fixture(name="lab")
def lab_with_wires() -> Iterator[Lab]:
    with Lab(monitors=2, napi_ends=True) as lab:
        lab.open_wires()
        yield lab


@pytest.mark.parametrize("capture", CAPTURES)
def test_a_prometheus_that_scrapes_says_what_the_json_says(lab: Lab, capture: str) -> None:
    frames = [packets.ip_frame("udp" if n % 3 else "tcp", bytes(n), sport=n) for n in range(600)]
    with Broker(lab, text_of(**CAPTURES[capture])) as running, \
            prometheus(lab.tap_ns, ADDRESS) as server:
        for source, sink in lab.directions():
            carry(frames, source, sink)
        stats = running.settled()
        assert all(port["rx_frames"] == len(frames) for port in tap_ports(stats).values())
        assert stats["policies"][0]["matched_frames"] == 800
        eventually(lambda: not disagreements(server, stats), timeout=10)
        assert not disagreements(server, stats)
        name = running.name
        assert {series["metric"]["broker"] for series in server.query('{__name__=~"vtap_.+"}')} \
            == {name}
        assert server.number(f'up{{instance="{ADDRESS}"}}') == 1
        assert server.number('vtap_tap_info{mode="inline",capture="%s"}' % (
            "redirect" if capture == "redirect" else "tee")) == 1
        assert server.number("sum(vtap_tap_port_up)") == 2
        assert server.number("sum(vtap_monitor_up)") == 2
        assert server.number("vtap_last_reload_success") == 1
        assert 0 < server.number("time() - vtap_last_load_timestamp_seconds") < 300
        # What the ledgers say, in PromQL.
        assert server.number("sum(vtap_policy_sent_frames_total)") == server.number(
            "sum(vtap_monitor_tx_frames_total) + sum(vtap_monitor_dropped_frames_total)")
        lab.port("m1").down()
        assert eventually(lambda: server.number('vtap_monitor_up{monitor="mon1"}') == 0)
        lab.port("m1").up()
        running.kill()
        assert eventually(lambda: server.number(f'up{{instance="{ADDRESS}"}}') == 0, timeout=10)
        running.start()
        assert eventually(lambda: server.number(f'up{{instance="{ADDRESS}"}}') == 1, timeout=10)


def latencies(stats: dict) -> dict[str, dict]:
    return {item["name"]: item["latency"] for item in stats["monitors"]}


@pytest.mark.parametrize("capture", CAPTURES)
def test_latency_of_copies(lab: Lab, capture: str) -> None:
    """Of one in 64, and of the first; JSON and metrics agree; what waits for its rate takes long."""
    text = config([inline(**CAPTURES[capture])],
                  [monitors(2)[0], {**monitors(2)[1], "rate": "100pps"}], [
        policy("all", ["mon0"]),
        policy("first", ["mon1"], match=[{"port": 999}])], metrics=ADDRESS)
    with Broker(lab, text) as running, prometheus(lab.tap_ns, ADDRESS) as server:
        started = time.monotonic()
        for number in range(10):
            carry([packets.sized(60, 100 * number + n) for n in range(100)], lab.left, lab.right)
        carry([packets.ip_frame("udp", bytes(20), dport=999, sport=n) for n in range(200)],
              lab.left, lab.right)
        eventually(lambda: running.stats()["monitors"][1]["tx_frames"] == 200, timeout=10)
        stats = running.settled()
        assert stats["monitors"][1]["tx_frames"] == 200
        longest = (time.monotonic() - started) * 1e9
        timed = {name: latency for name, latency in latencies(stats).items() if latency["count"]}
        # Of a redirect, one frame of each 64th burst: there may be none among so few.
        assert timed.keys() == {"mon0", "mon1"} or (capture == "redirect" and "mon0" in timed)
        for name, latency in timed.items():
            counts = [bucket["count"] for bucket in latency["buckets"]]
            assert counts == sorted(counts) and counts[-1] <= latency["count"]
            assert 0 < latency["sum_ns"] <= latency["count"] * longest
            # In the mean no more than the bound of the bucket that all are in.
            bound = next((b["le_ns"] for b in latency["buckets"] if b["count"] == latency["count"]),
                         longest)
            assert latency["sum_ns"] <= latency["count"] * bound, name
        # A few of 1200 copies, which at most one CPU each made; a ring leaves some out.
        quick = timed["mon0"]
        assert quick["count"] <= 1200 / 64 + os.cpu_count()
        assert quick["sum_ns"] / quick["count"] < 100e6
        if shaped := timed.get("mon1"):  # 200 copies, 100 of them a second
            assert shaped["sum_ns"] / shaped["count"] > 100e6
        for name, latency in latencies(stats).items():
            metric = "vtap_monitor_copy_latency_seconds"
            assert eventually(lambda: server.number(
                f'{metric}_count{{monitor="{name}"}}') == latency["count"])
            assert server.number(f'{metric}_sum{{monitor="{name}"}}') == \
                pytest.approx(latency["sum_ns"] / 1e9)
            assert {series["metric"]["le"]: float(series["value"][1])
                    for series in server.query(f'{metric}_bucket{{monitor="{name}"}}')} == {
                **{f"{bucket['le_ns'] / 1e9:.10g}": bucket["count"]
                   for bucket in latency["buckets"]},
                "+Inf": latency["count"]}
        assert all(worker["last_round_age_s"] < 1 for worker in stats["workers"])
        assert server.number("max(vtap_worker_last_round_age_seconds)") < 1


def test_off_unless_asked_for(lab: Lab) -> None:
    with Broker(lab, text_of("")) as running:
        listening = lab.tap_ns.run("ss", "-Hltn").stdout
        assert not listening.strip(), listening
        assert running.stats()["name"] == running.name


def test_a_port_in_use_ends_the_start_before_anything_is_touched(lab: Lab) -> None:
    with lab.tap_ns.entered():
        taken = socket.create_server(("127.0.0.1", 9471))
    before = snapshot(lab.tap_ns)
    refused = Broker(lab, text_of())
    try:
        done = run_broker(lab, "-c", refused.file)
        assert done.returncode == 1
        assert re.search(rf"metrics endpoint {re.escape(ADDRESS)}: another process listens there",
                         done.stdout + done.stderr), done.stderr
        assert not differences(before, snapshot(lab.tap_ns))
        taken.close()
        refused.start()
        assert "vtap_info" in http(lab.tap_ns, URL)
    finally:
        taken.close()
        refused.close()


def test_ends_while_clients_hang_on(lab: Lab) -> None:
    """And serves others meanwhile: nobody can stop the broker, or a scrape for longer than 2 s."""
    with Broker(lab, text_of()) as running, lab.tap_ns.entered():
        idle = [socket.create_connection(("127.0.0.1", 9471)) for _ in range(20)]
        carry([packets.sized(60, n) for n in range(100)], lab.left, lab.right)
        assert running.settled()["taps"][0]["ports"][0]["rx_frames"] == 100
        idle += [socket.create_connection(("127.0.0.1", 9471)) for _ in range(4)]
        assert running.stop(timeout=5) == 0
        for client in idle:
            client.close()


def test_ipv6_in_brackets(lab: Lab) -> None:
    lab.tap_ns.sysctl("net/ipv6/conf/lo/disable_ipv6", "0")
    with Broker(lab, text_of("[::1]:9471")):
        assert "vtap_info" in http(lab.tap_ns, "http://[::1]:9471/metrics")
        with pytest.raises(urllib.error.HTTPError, match="404"):
            http(lab.tap_ns, "http://[::1]:9471/")
