# SPDX-License-Identifier: Apache-2.0
"""The rules of the experiment: one per kind of attack. Each attack matches exactly one of them.

A threshold counts per attacker over more time than any run takes, so that the pace of the replay
decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

SCAN_PROBES = 20
SSH_LOGINS = 6


@dataclass(frozen=True)
class Rule:
    kind: str
    sid: int
    head: str  # action, protocol, addresses, ports
    body: str

    @property
    def text(self) -> str:
        return f'{self.head} (msg:"vtap {self.kind}"; {self.body} sid:{self.sid}; rev:1;)'


def _once_in(count: int) -> str:
    return f"threshold:type both, track by_src, count {count}, seconds 3600;"


HTTP_MARKER = "/vtap-backdoor.php"
SHELL_MARKER = "VTAP-REVERSE-SHELL"
SPLIT_MARKER = "VTAP-SPLIT-OVER-TWO-SEGMENTS"
BEACON_MARKER = "VTAP-BEACON"
LATE_MARKER = "VTAP-LATE-EXFILTRATION"
BAD_DOMAIN = "evil.vtap-lab.example"

_BY_HAND = (
    Rule("http-uri", 9000001, "alert http any any -> any any",
         f'flow:established,to_server; http.uri; content:"{HTTP_MARKER}"; startswith;'),
    Rule("shell", 9000002, "alert tcp any any -> any 4444",
         f'flow:established,to_server; content:"{SHELL_MARKER}"; depth:64;'),
    Rule("split", 9000003, "alert tcp any any -> any 8081",
         f'flow:established,to_server; content:"{SPLIT_MARKER}";'),
    Rule("ssh-brute-force", 9000004, "alert tcp any any -> any 22",
         f'flow:established,to_server; content:"SSH-2.0-"; depth:8; {_once_in(SSH_LOGINS)}'),
    Rule("dns-name", 9000005, "alert dns any any -> any 53",
         f'dns.query; content:"{BAD_DOMAIN}"; nocase; endswith;'),
    Rule("port-scan", 9000006, "alert tcp any any -> 10.1.0.0/16 1000:2000",
         f"flags:S; flow:stateless; {_once_in(SCAN_PROBES)}"),
    Rule("beacon", 9000007, "alert udp any any -> any 6969", f'content:"{BEACON_MARKER}";'),
    Rule("late", 9000008, "alert tcp any any -> any 9000",
         f'flow:established,to_server; content:"{LATE_MARKER}";'),
)
RULES = {rule.kind: rule for rule in _BY_HAND}


def rule_file(weight: int = 0) -> str:
    """The rules, and `weight` more that every payload is searched for in vain, at a price."""
    lines = [rule.text for rule in RULES.values()]
    lines += [f'alert ip any any -> any any (msg:"vtap weight {number}"; '
              f'pcre:"/[a-z0-9]+V{number}[A-Z]/"; sid:{9100000 + number}; rev:1;)'
              for number in range(weight)]
    return "\n".join(lines) + "\n"
