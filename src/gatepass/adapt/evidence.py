"""The sentence of an upstream that a lesson was learned from, as all may read it who may see the lesson."""

from __future__ import annotations

import re

EVIDENCE_CHARS = 200
QUOTED_CHARS = 40
"""Names and values of members are shorter; what is longer may be what somebody has asked."""
LEFT_OUT = "…"

_QUOTED = re.compile(
    r"""
    (?<!\w)' (?P<single> (?: [^'] | '(?=\w) )* ) (?: ' | \Z )
    | "      (?P<double> (?: [^"\\] | \\. )*   ) (?: " | \\?\Z )
    | `      (?P<tick>   [^`]*                 ) (?: ` | \Z )
    | \u201c (?P<curly>  [^\u201d]*            ) (?: \u201d | \Z )
    | \u2018 (?P<curl>   [^\u2019]*            ) (?: \u2019 | \Z )
    """,
    re.VERBOSE | re.DOTALL,
)
"""An apostrophe inside a word begins nothing and ends nothing; what is never closed goes on to the end."""


def evidence_of(said: str) -> str:
    """`said` without what is quoted in it at length, at most EVIDENCE_CHARS long: upstreams quote what a user wrote,
    and a lesson is shown to others."""
    return _QUOTED.sub(_shortened, said)[:EVIDENCE_CHARS]


def _shortened(found: re.Match[str]) -> str:
    inside = found[str(found.lastgroup)]
    return found[0] if len(inside) <= QUOTED_CHARS else found[0].replace(inside, LEFT_OUT, 1)
