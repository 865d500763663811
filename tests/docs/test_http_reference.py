"""The pages http_api.md and headers.md of docs/reference/: each example is sent, and each own header has its entry."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from docs.generate import FOLDER
from docs.http_reference import ADDED, API, READ, ROOT, operation_entry, page_entry

from gatepass.auth.api_keys import hash_key
from gatepass.auth.cors import EXPOSED
from gatepass.dialects.base import FORWARDED, RELAYED, RELAYED_PREFIXES
from gatepass.errors import GatepassError, InvalidApiKey, MethodNotAllowed, TokenUnavailable
from gatepass.operations.table import OPERATIONS
from gatepass.protocols.error_objects import error_headers
from gatepass.proxy.client_response import STREAM_HEADERS
from gatepass.server.pages import PATHS
from tests.integration.gateway import gateway
from tests.integration.scripted import Scripted, Send, reply

KEY = "gp-0123456789abcdef0123456789abcdef"
ACCESS = {"keys": [{"name": "ragflow", "role": "admin", "hash": hash_key(KEY)}]}
SOURCES = Path(__file__).parents[2] / "src/gatepass"
HTTP_API, HEADERS = [(FOLDER / name).read_text() for name in ("http_api.md", "headers.md")]
ENTRY = re.compile(r"^### `([A-Z]+ [^`]+)`\n(.*?)(?=^##|\Z)", re.MULTILINE | re.DOTALL)
ENTRIES = dict(ENTRY.findall(HTTP_API))


def block(entry: str, language: str) -> str | None:
    found = re.search(rf"^```{language}\n(.*?)\n```", entry, re.MULTILINE | re.DOTALL)
    return found and found[1]


def test_exactly_the_existing_operations_and_pages_have_an_entry() -> None:
    operations = {f"{row.method} /v1{row.path}" for row in OPERATIONS}
    assert set(ENTRIES) == operations | {f"GET {path}" for path in ("/", *PATHS)}
    assert set(API) == {(row.method, row.path) for row in OPERATIONS}


def test_a_missing_entry_is_an_error_that_names_its_list() -> None:
    with pytest.raises(KeyError, match=r"POST /ask requires an entry in API \(docs/http_reference.py\)"):
        operation_entry(replace(OPERATIONS[0], path="/ask"))
    with pytest.raises(KeyError, match=r"/connections requires an entry in OWN_PAGES \(docs/http_reference.py\)"):
        page_entry("/connections")


def request(command: str) -> tuple[str, str, dict[str, str], bytes]:
    """Method, path, headers and body of a curl command."""
    words = iter(shlex.split(command.replace("\\\n", " ").replace("$GATEPASS_KEY", KEY))[1:])
    method, path, body = "GET", "", b""
    headers: dict[str, str] = {}
    parts = []
    for word in words:
        match word:
            case "-X":
                method = next(words)
            case "-H":
                name, _, value = next(words).partition(": ")
                headers[name.lower()] = value
            case "-d":
                method, body = "POST", next(words).encode()
            case "-F":
                name, _, value = next(words).partition("=")
                file = f'; filename="{value[1:]}"' * value.startswith("@")
                parts.append(f'--cut\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n{value}\r\n')
            case "-o":
                next(words)
            case _:
                path = word.removeprefix(ROOT)
    if parts:
        method, body = "POST", ("".join(parts) + "--cut--\r\n").encode()
        headers["content-type"] = "multipart/form-data; boundary=cut"
    return method, path, headers, body


async def test_each_example_is_a_request_with_that_reply() -> None:
    requests = {title: request(block(entry, "sh") or "") for title, entry in ENTRIES.items()}
    replies = {requests[title][:2]: json.loads(block(ENTRIES[title], "json") or "{}") for title in ENTRIES}
    models = {"gpt-4o": {"upstream": "chat"}, "*": {"upstream": "chat"}}
    async with (
        Scripted(answer=lambda received: [Send(reply(replies[received.method, received.target]))]) as upstream,
        gateway(upstream=upstream.url, access=ACCESS, models=models) as served,
    ):
        for title, (method, path, headers, body) in requests.items():
            assert title.startswith(f"{method} ")
            bare = {name: value for name, value in headers.items() if name != "authorization"}
            without_key = await served.ask(body, path, method=method, headers=bare).answer()
            assert without_key.status == (200 if "Key: none" in ENTRIES[title] else 401), title
            answer = await served.ask(body, path, method=method, headers=headers).answer()
            assert answer.status == 200, title
            if text := block(ENTRIES[title], "text"):
                assert text in answer.body.decode(), title
            elif block(ENTRIES[title], "json"):
                assert answer.json() == replies[method, path], title


@pytest.mark.parametrize(
    ("path", "code"),
    [
        *(("/openai/deployments/gpt-4o/chat/completions", "unknown_path"), ("/v1/messages", "unsupported_api")),
        *(("/docs", "unknown_path"), ("/openapi.json", "unknown_path")),
    ],
)
async def test_a_path_that_the_page_excludes_is_an_error(path: str, code: str) -> None:
    assert path.replace("gpt-4o", "NAME") in HTTP_API
    async with gateway(upstreams={"chat": {"base_url": "http://127.0.0.1:9/v1"}}) as served:
        assert (await served.ask(path=path).answer()).error["code"] == code


async def test_a_path_works_with_each_prefix_and_below_a_profile() -> None:
    listed = {"gpt-4o": {"upstream": "chat"}}
    async with gateway(
        upstreams={"chat": {"base_url": "http://127.0.0.1:9/v1", "dialect": "azure"}}, models=listed
    ) as served:
        for prefix in ("/v1", "", "/v1/v1", "/for/ragflow/v1", "//v1/"):
            assert (await served.ask(None, f"{prefix}/models/", method="GET").answer()).status == 200


def test_every_header_that_gatepass_adds_has_its_entry() -> None:
    code = "".join(file.read_text() for file in SOURCES.rglob("*.py"))
    own = set(re.findall(r'b"(x-gatepass-[a-z]+)"', code)) | set(EXPOSED.decode().split(", ")) - {"retry-after-ms"}
    errors: list[GatepassError] = [InvalidApiKey(""), MethodNotAllowed("", allow="GET")]
    errors.append(TokenUnavailable("", credential="corp", retry_after_s=300))
    own |= {name.decode() for error in errors for name, _ in error_headers(error)}
    own |= {name.decode() for name, _ in STREAM_HEADERS}
    assert own - set(ADDED) == {"content-type"}


def test_every_listed_header_is_on_the_page() -> None:
    names = [*FORWARDED, *RELAYED, *(prefix + b"*" for prefix in RELAYED_PREFIXES)]
    assert [name for name in names if f"`{name.decode()}`" not in HEADERS] == []


async def test_headers_pass_as_the_page_states() -> None:
    sent = {name: header.example.partition(": ")[2] for name, header in READ.items() if name != "host"}
    sent |= {"authorization": f"Bearer {KEY}", "x-request-id": "mine-1", "user-agent": "me", "x-other": "1"}
    of_upstream: dict[str, Any] = {"x_ratelimit_remaining_requests": "99", "x_other": "1", "set_cookie": "a=b"}
    body = {"model": "m", "messages": []}
    whole = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}]}
    async with Scripted([Send(reply(whole, **of_upstream))]) as upstream:
        async with gateway(upstream=upstream.url, access=ACCESS) as served:
            answer = await served.ask(body, headers=sent).answer()
        received = {name for name, _ in upstream.received[0].headers}
        assert upstream.received[0].header("x-request-id") == "mine-1"
    assert {"user-agent", "content-type"} <= received
    assert not received & {"authorization", "x-other", "origin", "x-forwarded-for", "sec-fetch-site"}
    assert answer.headers["x-ratelimit-remaining-requests"] == "99"
    assert not answer.headers.keys() & {"x-other", "set-cookie"}
    assert {"x-request-id", "server-timing", "cache-control"} <= answer.headers.keys()
