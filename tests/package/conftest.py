# SPDX-License-Identifier: Apache-2.0
"""The rules of the integration tests hold here too, and their lab is this layer's."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

_integration = Path(__file__).resolve().parent.parent / "integration"
sys.path.insert(0, str(_integration))
_spec = importlib.util.spec_from_file_location("integration_rules", _integration / "conftest.py")
_rules = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = _rules
_spec.loader.exec_module(_rules)
globals().update({name: value for name, value in vars(_rules).items()
                  if not name.startswith("__")})
