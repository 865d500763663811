"""The curl command of a story, as a shell reads it."""

import json
import shlex
from typing import Any

import pytest
from msgspec import structs

from gatepass.documents import Body, Story
from gatepass.observability.story import curl_command
from tests.golden.test_stories import story as told

URL = "http://127.0.0.1:8080"


def held(text: str, *, following: str | None = None, cut: bool = False) -> Body:
    return Body("request", text, following, len(text), cut)


def story(**changed: Any) -> Story:
    return structs.replace(told(), **{"captured": "bodies" in changed, **changed})


def words(command: str) -> list[str]:
    return shlex.split(command.replace("\\\n", ""), comments=True)


def test_curl_without_a_captured_body_asks_for_a_file():
    command = curl_command(story(), URL)
    assert command.startswith("# The body was not captured (see `gatepass capture`): write it to body.json.\n")
    assert words(command) == [
        *("curl", "-sS", "-N", "-X", "POST", "http://127.0.0.1:8080/v1/chat/completions"),
        *("-H", "authorization: Bearer $GATEPASS_KEY", "-H", "content-type: application/json", "-d", "@body.json"),
    ]
    assert "-d" not in words(curl_command(story(method="GET", path="/v1/models"), URL))


@pytest.mark.parametrize("operation", ["mcp", "mcp_stream"])
def test_an_mcp_server_is_told_what_the_client_reads(operation: str):
    accept = ["-H", "accept: application/json, text/event-stream"]
    asked = story(operation=operation, method="GET", path="/mcp/search", mcp_method="DELETE")
    command = curl_command(asked, URL)
    assert command.startswith("# The record has no MCP-Protocol-Version and no Mcp-Session-Id: ")
    assert words(command)[-2:] == accept


@pytest.mark.parametrize(("tool", "named"), [("it's", ["-H", "mcp-name: it's"]), ("", []), ("名", []), ("a\nb", [])])
def test_a_message_to_an_mcp_server_names_its_method_and_tool(tool: str, named: list[str]):
    message = story(operation="mcp", path="/mcp/search", mcp_method="tools/call", mcp_tool=tool)
    command = curl_command(message, URL)
    comments = [line for line in command.splitlines() if line.startswith("#")]
    assert [line.split(":")[0] for line in comments] == [
        "# The body was not captured (see `gatepass capture`)",
        "# The record has no MCP-Protocol-Version and no Mcp-Session-Id",
    ]
    accept = ["-H", "accept: application/json, text/event-stream"]
    headers = [*accept, "-H", "mcp-method: tools/call", *named]
    assert words(command)[-(len(headers) + 2) :] == [*headers, "-d", "@body.json"]


@pytest.mark.parametrize(
    ("changed", "comment"),
    [
        ({"captured": True}, "# Only admins see the captured body: "),
        ({"bodies": [held("{", cut=True)]}, "# The body was not captured whole: "),
        ({"bodies": [held("{", following="k/0/1")]}, "# The body is longer than what is shown: "),
        ({"bodies": []}, "# The body was not captured whole: "),
    ],
)
def test_it_says_why_the_body_is_missing(changed: dict[str, Any], comment: str):
    assert curl_command(story(**changed), URL).startswith(comment)


@pytest.mark.parametrize("text", ['it\'s `$(id)` "$HOME" \\ 名', "x" * 200_000])
def test_curl_quotes_a_captured_body_for_the_shell(text: str):
    body = json.dumps({"messages": [{"content": text}]}, ensure_ascii=False)
    command = curl_command(story(bodies=[held(body)]), URL)
    assert body in words(command)
    assert "GATEPASS_KEY" in command


def test_a_captured_body_names_no_file():
    assert words(curl_command(story(bodies=[held("@/etc/passwd")]), URL))[-2:] == ["--data-raw", "@/etc/passwd"]


def test_no_part_controls_the_terminal_and_the_body_means_the_same():
    body = '{"a":\t"\x1b[2J\x7f\u202e\U000e0001 *** 名"}'
    command = curl_command(story(bodies=[held(body)], path="/v1/\x1b[2J\n"), URL)
    assert command.startswith("# *** in the body stands for a secret.\n")
    assert command.replace("\n", "").isprintable()
    assert f"{URL}/v1/%1B[2J%0A" in words(command)
    assert json.loads(words(command)[-1]) == json.loads(body, strict=False)
