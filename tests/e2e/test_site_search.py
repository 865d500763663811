"""The search of the built site finds the page of symptoms first for the texts of errors."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from docs.symptom_table import GROUPS

ROOT = Path(__file__).parents[2]
QUERIES = ["401", "403", "NoneType", "peer closed", "CERTIFICATE_VERIFY_FAILED", "token expired", "invalid_client"]
README_TEXTS = [
    text
    for _, rows in GROUPS.values()
    for row in rows
    if row.solution
    for text in re.findall(r"`([^`]+)`", row.seen)
    if "…" not in text
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    subprocess.run(["make", "docs-site", f"SITE={folder}"], cwd=ROOT, check=True, timeout=300, capture_output=True)
    return folder


def found(site: Path, *queries: str) -> list[list[str]]:
    """The pages that the search of the site finds for each query, the best one first."""
    command = ["node", str(Path(__file__).parent / "site/search.mjs"), str(site)]
    done = subprocess.run(command, input=json.dumps(queries), capture_output=True, text=True, check=True, timeout=60)
    results: list[list[str]] = json.loads(done.stdout)
    return results


def test_the_page_of_symptoms_is_the_first_result(site: Path) -> None:
    queries = [*QUERIES, *README_TEXTS]
    assert len(queries) >= 15
    pages = zip(queries, found(site, *queries), strict=True)
    assert {query: first for query, first in pages if first[:1] != ["symptoms"]} == {}


def test_a_pasted_line_of_a_log_finds_the_page_of_symptoms(site: Path) -> None:
    lines = [
        "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: unable to get local issuer certificate (_ssl.c:1)",
        "TypeError: 'NoneType' object is not iterable",
        "openai.AuthenticationError: Error code: 401",
        "httpx.RemoteProtocolError: peer closed connection without sending complete message body",
        "openai.APIConnectionError: Connection error.",
        "certificate verify failed",
    ]
    assert [line for line, first in zip(lines, found(site, *lines), strict=True) if first[:1] != ["symptoms"]] == []


def test_a_page_is_found_by_its_title(site: Path) -> None:
    assert found(site, "Token recipes")[0][0] == "tokens"
