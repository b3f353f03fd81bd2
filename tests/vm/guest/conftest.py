# SPDX-License-Identifier: Apache-2.0
"""Tests of a guest (tools/vm.sh): the rules of the integration tests hold for them too."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

INTEGRATION = Path(__file__).resolve().parents[2] / "integration"
sys.path.insert(0, str(INTEGRATION))


def _rules():
    """The integration tests' conftest.py, under a name of its own."""
    spec = importlib.util.spec_from_file_location("integration_rules", INTEGRATION / "conftest.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_rules(), "integration-rules")
