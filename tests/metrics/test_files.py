# SPDX-License-Identifier: Apache-2.0
"""The dashboard, the alerts and the documentation speak of metrics that are there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
ALERTS = ROOT / "config" / "prometheus-alerts.yml"
DASHBOARD = json.loads((ROOT / "config" / "grafana-dashboard.json").read_text())
UNPACKED = "/usr/local/lib/vtap-tests"  # by tools/setup.sh

# What Prometheus adds to every series of a target.
ADDED = {"instance", "job"}
# Metrics of histograms, as they are asked for.
PARTS = ("_bucket", "_sum", "_count")


def promtool(*words: str | Path, stdin: str | None = None) -> str:
    found = shutil.which("promtool", path=os.environ["PATH"] + os.pathsep + UNPACKED)
    if found is None:
        if os.environ.get("CI", "").lower() in ("true", "1"):
            pytest.fail("promtool is not there (tools/setup.sh --test): in CI nothing is skipped")
        pytest.skip("promtool is not there: tools/setup.sh --test")
    done = subprocess.run([found, *map(str, words)], input=stdin, text=True, capture_output=True,
                          timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="session", name="exposition")
def exposition_of_everything() -> str:
    return subprocess.run([os.environ["PRINT_METRICS"]], text=True, capture_output=True,
                          check=True, timeout=10).stdout


@pytest.fixture(scope="session", name="labels")
def labels_by_metric(exposition: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for line in exposition.splitlines():
        if not line.startswith("#"):
            name, names = re.match(r"(\w+)(?:\{(.*)\})? ", line).groups()
            found.setdefault(name, set()).update(re.findall(r'(\w+)="', names or ""))
    assert len(found) > 40
    return found


def families(exposition: str) -> dict[str, str]:
    """Type by name."""
    return dict(re.findall(r"^# TYPE (\w+) (\w+)$", exposition, re.M))


def expressions_of_dashboard() -> Iterator[tuple[str, str]]:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield f"variable {variable['name']}", variable["query"]["query"]
    for annotation in DASHBOARD["annotations"]["list"]:
        yield f"annotation {annotation['name']}", annotation["expr"]


def expressions_of_alerts() -> Iterator[tuple[str, str]]:
    """The file has no anchors and no quoted expressions, so its text says enough."""
    for block in ALERTS.read_text().split("- alert: ")[1:]:
        name = block.split("\n", 1)[0]
        yield name, re.search(r"expr: (?:>-)?(.*?)\n +(?:for|labels):", block, re.S)[1].strip()


EXPRESSIONS = [*expressions_of_dashboard(), *expressions_of_alerts()]


def test_there_are_expressions() -> None:
    assert len([*expressions_of_dashboard()]) > 25
    assert len([*expressions_of_alerts()]) == ALERTS.read_text().count("- alert:") >= 9


def test_promtool_finds_nothing_to_say_of_the_metrics(exposition: str) -> None:
    assert promtool("check", "metrics", stdin=exposition) == ""


@pytest.mark.parametrize("where, expression", EXPRESSIONS, ids=[e[0] for e in EXPRESSIONS])
def test_expressions_name_metrics_and_labels_that_are_there(
        labels: dict[str, set[str]], where: str, expression: str) -> None:
    metrics = re.findall(r"\bvtap_\w+", expression)
    assert metrics or expression.startswith("up{"), where
    assert set(metrics) <= labels.keys(), f"{where}: {set(metrics) - labels.keys()}"
    known = set.union(ADDED, *(labels[metric] for metric in metrics))
    used = set(re.findall(r"[{,] *(\w+) *(?:=~|!~|!=|=)", expression))
    for names in re.findall(r"\b(?:by|on) *\(([^)]*)\)", expression):
        used |= {name.strip() for name in names.split(",")}
    if metrics:
        assert used <= known, f"{where}: {used - known}"


def test_counters_are_asked_for_their_rates(exposition: str) -> None:
    """And gauges are not."""
    types = families(exposition)
    for where, expression in EXPRESSIONS:
        for metric in re.findall(r"\bvtap_\w+", expression):
            part = next((end for end in PARTS if metric.endswith(end)), "")
            kind = types[metric.removesuffix(part)]
            rated = re.search(rf"\b(?:rate|increase)\({metric}\b", expression) is not None
            assert rated == (kind != "gauge"), f"{where}: {metric} is a {kind}"


def test_legends_name_labels_that_are_left() -> None:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            left = re.search(r"\bby \(([^)]*)\)", target["expr"])
            if left is None:
                continue
            kept = {name.strip() for name in left[1].split(",")}
            used = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            assert used <= kept, f"{panel['title']}: {used - kept}"


def test_the_dashboard_can_be_imported() -> None:
    """A data source that is chosen, panels that do not overlap, ids that are there once."""
    assert DASHBOARD["title"] and DASHBOARD["uid"] and "id" not in DASHBOARD
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = set()
    for panel in panels:
        at = panel["gridPos"]
        area = {(x, y) for x in range(at["x"], at["x"] + at["w"])
                for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & area and at["x"] + at["w"] <= 24, panel["title"]
        cells |= area
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}", panel["title"]
            assert all(target["datasource"]["uid"] == "${datasource}"
                       for target in panel["targets"])


def test_prometheus_takes_the_expressions_of_the_dashboard(tmp_path: Path) -> None:
    rules = []
    for number, (_where, expression) in enumerate(expressions_of_dashboard()):
        if expression.startswith("label_values("):
            continue
        expression = expression.replace("$__rate_interval", "1m").replace("$__range", "1h")
        rules.append({"record": f"panel:{number}", "expr": expression})
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", file)


def test_prometheus_takes_the_alerts_and_they_mean_what_they_should() -> None:
    assert "SUCCESS" in promtool("check", "rules", ALERTS)
    promtool("test", "rules", HERE / "alerts_test.yml")


def test_every_alert_is_tested() -> None:
    tests = (HERE / "alerts_test.yml").read_text()
    for name, _expression in expressions_of_alerts():
        fires = re.search(rf"alertname: {name}\n +eval_time: .*\n +exp_alerts:", tests)
        assert fires, f"{name} never fires in a test"


def test_the_documentation_has_every_metric_with_its_labels_and_no_other(
        exposition: str, labels: dict[str, set[str]]) -> None:
    documented = {}
    for name, kind, own in re.findall(r"^\| `(vtap_\w+)` \| (\w+) \|([^|]*)\|",
                                      (ROOT / "docs" / "metrics.md").read_text(), re.M):
        documented[name] = (kind, set(re.findall(r"`(\w+)`", own)))
    there = {}
    for name, kind in families(exposition).items():
        series = labels[name + "_bucket"] - {"le"} if kind == "histogram" else labels[name]
        there[name] = (kind, series - {"broker"})
    assert documented == there
