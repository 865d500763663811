"""The curl command of a story, as a shell reads it."""

import json
import shlex
from typing import Any

import pytest
from msgspec import UNSET, structs

from gatepass.documents import Body
from gatepass.observability.story import curl_command
from tests.golden.test_stories import story

URL = "http://127.0.0.1:8080"


def held(text: str, *, cut: bool = False) -> Body:
    return Body("request", text, len(text), cut)


def command(bodies: Any, **changed: Any) -> str | None:
    return curl_command(structs.replace(story(), bodies=bodies, **changed), URL)


@pytest.mark.parametrize(
    "bodies",
    [UNSET, [], [held("{", cut=True)], [held("x" * 100_001)], [held('"\x1b[2J"')], [held("\u202e")], [held("\x7f")]],
)
def test_only_a_whole_printable_body_of_an_argument_has_a_command(bodies: Any):
    assert command(bodies) is None


def test_curl_quotes_a_captured_body_and_the_path_for_the_shell():
    body = json.dumps({"messages": [{"content": 'it\'s `$(id)` "$HOME" \\ 名 ***'}]}, ensure_ascii=False, indent="\t")
    made = command([held(body)], path="/v1/\x1b[2J\n")
    assert made is not None
    assert made.startswith("# *** in the body stands for a secret.\n")
    assert shlex.split(made.replace("\\\n", ""), comments=True) == [
        *("curl", "-sS", "-N", "-X", "POST", f"{URL}/v1/%1B[2J%0A", "-H", "authorization: Bearer $GATEPASS_KEY"),
        *("-H", "content-type: application/json", "--data-raw", body),
    ]
