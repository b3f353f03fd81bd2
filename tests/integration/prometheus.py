# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus in a namespace, with its data in a directory of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import OWN_PREFIX, Namespace, eventually

UNPACKED = "/usr/local/lib/vtap-tests"  # by tools/setup.sh
PORT = 9090
CONFIG = """
global:
  scrape_interval: 200ms
  scrape_timeout: 200ms
  evaluation_interval: 200ms
rule_files: [{rules}]
scrape_configs:
  - job_name: vtap
    static_configs:
      - targets: ["{target}"]
"""


def program(name: str = "prometheus") -> str:
    found = shutil.which(name, path=os.environ["PATH"] + os.pathsep + UNPACKED)
    if found is not None:
        return found
    if os.environ.get("CI", "").lower() in ("true", "1"):
        pytest.fail(f"{name} is not there (tools/setup.sh --test), and in CI nothing is skipped")
    pytest.skip(f"{name} is not there: tools/setup.sh --test")


def http(ns: Namespace, url: str, timeout: float = 10) -> str:
    with ns.entered(), urllib.request.urlopen(url, timeout=timeout) as answer:
        return answer.read().decode()


class Prometheus:
    """Its namespace sees the broker's address."""

    def __init__(self, ns: Namespace, log: Path) -> None:
        self.ns = ns
        self.log = log

    def get(self, path: str, **parameters: str) -> object:
        query = "?" + urllib.parse.urlencode(parameters) if parameters else ""
        answer = json.loads(http(self.ns, f"http://127.0.0.1:{PORT}/api/v1/{path}{query}"))
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str) -> list[dict]:
        """Series of an instant query: labels in `metric`, the value as text in `value[1]`."""
        return self.get("query", query=expression)["result"]

    def number(self, expression: str) -> float | None:
        """The value of the one series that answers; None: no such series."""
        found = self.query(expression)
        assert len(found) <= 1, found
        return float(found[0]["value"][1]) if found else None


@contextlib.contextmanager
def prometheus(ns: Namespace, target: str, rules: Path | None = None) -> Iterator[Prometheus]:
    """Started, answering, and ended again with all that it wrote."""
    executable = program()
    directory = Path(tempfile.mkdtemp(prefix=OWN_PREFIX))
    log = directory / "log"
    try:
        file = directory / "prometheus.yml"
        file.write_text(CONFIG.format(target=target, rules=json.dumps(str(rules)) if rules else ""))
        with ns.entered(), log.open("wb") as output:
            process = subprocess.Popen(
                [executable, f"--config.file={file}", f"--storage.tsdb.path={directory / 'data'}",
                 f"--web.listen-address=127.0.0.1:{PORT}", "--log.level=warn"],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=directory)
        try:
            def answers() -> bool:
                assert process.poll() is None, log.read_text()
                with contextlib.suppress(OSError):
                    return "Ready" in http(ns, f"http://127.0.0.1:{PORT}/-/ready")
                return False

            assert eventually(answers, timeout=20), log.read_text()
            yield Prometheus(ns, log)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    finally:
        shutil.rmtree(directory)
