"""The table of symptoms: each error text once, on one page, and its texts of gatepass are real."""

import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from docs.error_messages import FAULTS, MESSAGES
from docs.symptom_table import SECTIONS

from gatepass.cli import COMMANDS
from tests.docs.test_errors import codes
from tests.golden.test_fault_texts import texts

DOCS = Path(__file__).parents[2] / "docs"
ROWS = [row["en"] for section in SECTIONS for row in section["rows"]]
FAULT_TABLE = re.compile(r"^\| *(you see|symptom|fault|error|message|.* (shows|prints)) *\|", re.MULTILINE)


def test_each_symptom_has_one_row():
    of_a_section = Counter((part["en"]["title"], row["en"]["see"]) for part in SECTIONS for row in part["rows"])
    assert [shown for shown, times in of_a_section.items() if times > 1] == []
    texts = Counter(text for row in ROWS for text in re.findall(r"`([^`]+)`", row["see"]) if len(text.split()) > 2)
    assert [text for text, times in texts.items() if times > 1] == []


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_row_with_a_code_as_json_has_it_as_ragflow_shows_it(language):
    """An OpenAI SDK prints the error as a dict of Python."""
    seen = [row[language]["see"] for section in SECTIONS for row in section["rows"]]
    as_json = [(see, found) for see in seen for found in re.findall(r'"code":"(\w+)"', see)]
    assert len(as_json) >= 5
    assert [found for see, found in as_json if f"'code': '{found}'" not in see] == []


def test_no_other_english_page_has_a_table_of_faults():
    pages = [page for page in DOCS.rglob("*.md") if page.name != "symptoms.md" and "zh" not in page.parts]
    assert [page.name for page in pages if FAULT_TABLE.search(page.read_text())] == []
    assert FAULT_TABLE.search((DOCS / "symptoms.md").read_text())


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


def test_no_row_concludes_from_a_missing_hop():
    """openai-python 3 prints only `message`, also of an error of gatepass."""
    for language, words in (("en", "(without|no) `hop`"), ("zh", "没有 `hop`")):
        texts = [text for section in SECTIONS for row in section["rows"] for text in row[language].values()]
        assert [text for text in texts if re.search(words, text, re.IGNORECASE)] == []
