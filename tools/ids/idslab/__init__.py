# SPDX-License-Identifier: Apache-2.0
"""Parts of the IDS experiment (ids_lab.py): traffic, Suricata, judgement, report, lab."""
