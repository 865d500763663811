"""The table of symptoms: the codes, commands and texts of its rows are those of gatepass."""

import re
from collections import defaultdict

import pytest
from docs.error_messages import FAULTS, MESSAGES
from docs.symptom_table import SECTIONS

from gatepass.cli import COMMANDS
from tests.docs.test_errors import codes
from tests.golden.test_fault_texts import texts

ROWS = [row["en"] for section in SECTIONS for row in section["rows"]]


def test_the_rows_name_codes_and_commands_that_exist():
    named = {found for row in ROWS for found in re.findall(r"\b(?:\d{3}|error(?: code)?) `(\w+)`", row["see"])}
    assert named <= codes()
    assert {"token_unavailable", "mcp_server_not_allowed", "mcp_session_not_found"} <= named
    commands = {found for row in ROWS for found in re.findall(r"`gatepass (\w+)", row["action"])}
    assert commands <= set(COMMANDS)
    assert len(commands) >= 8


def test_the_texts_behind_a_code_are_messages_of_that_code():
    shown = [pair for row in ROWS for pair in re.findall(r"`(\w+)`: `([^`]+)`", row["see"])]
    assert len(shown) >= 3
    assert [code for code, text in shown if text not in MESSAGES[code]] == []


OTHERS = {
    *("Name or service not known", "Temporary failure in name resolution", "certificate has expired"),
    *("the certificate of … is self-signed", "The upstream ended its stream before the answer was complete"),
    *("Connection reset by peer", "speaks TLS on this port"),
    "The upstream ended its answer inside the arguments of a tool call",
}
"""Texts of the system, of doctor and of streams in the rows of failed connections."""


def fault_texts() -> dict[str, str]:
    """The texts of each code of a failed connection."""
    found: defaultdict[str, str] = defaultdict(str)
    for why in ("connection refused", "proxy proxy.example:3128: connection refused"):
        for line in texts("chat", "https://llm.example/v1", why).splitlines():
            kind, _, text = line.partition(": ")
            found["upstream_connect" if kind == "proxy" else f"upstream_{kind}"] += f"{text}\n"
    return {code: found[code] for code in (*FAULTS, "upstream_timeout_total")}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_each_text_of_a_failed_connection_is_a_text_of_the_code_in_its_row(language):
    by_code, shown, wrong = fault_texts(), set(), set()
    for see in (row[language]["see"] for section in SECTIONS for row in section["rows"]):
        of_issuer = re.findall(r"`no token for credential …: (no [^`]+)`", see)
        named = by_code.keys() & set(re.findall(r"`(\w+)`", see)) or {"upstream_connect" for _ in of_issuer}
        known = "".join(by_code[code] for code in named)
        texts_of_row = [text for text in re.findall(r"`([^`]+)`", see) if " " in text]
        quoted = set(of_issuer or texts_of_row if named else ()) - OTHERS
        shown |= named if quoted else set()
        wrong |= {one for one in quoted if not re.search(re.escape(one).replace("…", r"\S+"), known, re.IGNORECASE)}
    assert wrong == set(), "correct the rows in docs/symptoms.yaml: the texts are in http_client/fault_text.py"
    assert shown == set(by_code)
