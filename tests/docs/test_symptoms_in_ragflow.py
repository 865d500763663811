"""From the text that RAGFlow shows to the setting that mends it: one step, by the page of symptoms in either language.

Twelve faults of an administrator. Where gatepass answers, the fault is real, and its answer is shown as RAGFlow shows
it: openai-python 2.41 and rag/llm/*.py up to 0.27, internal/entity/models/*.go from 1.0 on. The other texts are
RAGFlow's own, of commit b1b8cd6235.
"""

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from docs.symptom_table import SECTIONS

from tests.integration.answers import COMPLETION, EVENTS
from tests.integration.gateway import HELLO, STREAMED, Answer, gateway
from tests.integration.ragflow import REPLAYED, classify
from tests.integration.refusing import Refusing, no_stream
from tests.integration.scripted import Dialogue, Fin, Hold, Send, begin_stream, chunk, event, head, reply
from tests.integration.test_connections import refusing_server
from tests.integration.test_doctor_faults import PAGE, ROOT, Stage, issuer, refusal, upstream

CHAT, EMBEDDINGS = "/for/ragflow/v1/chat/completions", "/for/ragflow/v1/embeddings"
TEXTS = {"model": "m", "input": ["test"], "dimensions": 1024}
SECRET = ("client_id", "GATEPASS_CLIENT_ID", "client_secret", "client_auth", "GATEPASS_CLIENT_AUTH")
URL, TOKEN_URL = ("base_url", "GATEPASS_UPSTREAM_URL"), ("token_url", "GATEPASS_TOKEN_URL")
WAITS, FIRST_BYTE = ("LLM_TIMEOUT_SECONDS",), ("upstreams.NAME.timeouts.first_byte_s",)
RERUN = ("retry: {on: [refused, may_have_run]}",)
DIMENSIONS = ("capabilities.dimensions", "models.NAME.name")

PORT = re.compile(r"(?<=127\.0\.0\.1):\d+")
"""RAGFlow takes the digits of port 42989 for a limit, which no row can foresee."""

Staging = Callable[[Stage], Awaitable[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Fault:
    """`mended_by` are the names that the row has: settings of gatepass, their variables, and variables of RAGFlow."""

    mended_by: tuple[str, ...]
    staged: Staging
    bodies: tuple[Mapping[str, Any], ...] = (HELLO, STREAMED)
    path: str = CHAT


def behind(answer: Dialogue | Refusing, **settings: Any) -> Staging:
    """An upstream that answers this."""

    async def staged(stage: Stage) -> dict[str, Any]:
        server = stage.server(answer=answer) if isinstance(answer, Refusing) else stage.server(answer)
        return upstream(await server, **settings)

    return staged


def token_from(answer: Dialogue) -> Staging:
    async def staged(stage: Stage) -> dict[str, Any]:
        return await issuer(stage, await stage.server(answer))

    return staged


async def dead_issuer(stage: Stage) -> dict[str, Any]:
    return await issuer(stage, stage.stack.enter_context(refusing_server()))


async def unknown_ca(stage: Stage) -> dict[str, Any]:
    return await stage.secure(ROOT.issue_cert("127.0.0.1"), is_trusted=False)


async def issuer_of_unknown_ca(stage: Stage) -> dict[str, Any]:
    return await issuer(stage, await stage.server([Hold()], tls=stage.tls(ROOT.issue_cert("127.0.0.1"))))


async def dead_proxy(stage: Stage) -> dict[str, Any]:
    return {**upstream("https://llm.example"), "network": {"proxy": stage.stack.enter_context(refusing_server())}}


def refusing_proxy(status: int) -> Staging:
    async def staged(stage: Stage) -> dict[str, Any]:
        proxy = await stage.server([Send(head(status, content_length="0")), Fin()])
        return {**upstream("https://llm.example"), "network": {"proxy": proxy}}

    return staged


async def other_models(stage: Stage) -> dict[str, Any]:
    return {**await behind([Send(reply(COMPLETION))])(stage), "models": {"gpt-4o": {"upstream": "chat"}}}


def error(status: int, message: str, code: str) -> Dialogue:
    return [Send(reply({"error": {"message": message, "type": "error", "param": None, "code": code}}, status))]


UNAVAILABLE = event({"error": {"message": "The engine is unavailable", "type": "server_error", "code": None}})
SHORT = {"object": "list", "model": "m", "data": [{"object": "embedding", "index": 0, "embedding": [0.1, 0.2]}]}

FAULTS = {
    "dead issuer": Fault(TOKEN_URL, dead_issuer),
    "wrong secret": Fault(SECRET, token_from(refusal(401, "invalid_client", "Client authentication failed"))),
    "wrong secret at Keycloak": Fault(
        SECRET, token_from(refusal(401, "unauthorized_client", "Invalid client or Invalid client credentials"))
    ),
    "wrong CA": Fault(("network.ca_file", "GATEPASS_CA_FILE"), unknown_ca),
    "wrong CA of the issuer": Fault(("network.ca_file", "GATEPASS_CA_FILE"), issuer_of_unknown_ca),
    "dead proxy": Fault(("network.proxy", "GATEPASS_PROXY"), dead_proxy),
    "refusing proxy": Fault(("network.no_proxy", "GATEPASS_NO_PROXY"), refusing_proxy(403)),
    "proxy with a password": Fault(("network.proxy_auth",), refusing_proxy(407)),
    "wrong model": Fault(("models.NAME.name",), behind(error(404, "The model `m` does not exist", "model_not_found"))),
    "model of no route": Fault(("`models`",), other_models),
    "500": Fault(RERUN, behind([Send(reply(b"Internal Server Error", 500))])),
    "500 in a stream": Fault(
        RERUN, behind([*begin_stream(), Send(chunk(EVENTS[0])), Send(chunk(UNAVAILABLE)), Fin()]), (STREAMED,)
    ),
    "429": Fault(
        ("max_in_flight", "retry: {on: [refused]}"), behind(error(429, "Rate limit reached", "rate_limit_exceeded"))
    ),
    "cut stream": Fault(URL, behind([*begin_stream(), Send(chunk(EVENTS[0])), Fin()])),
    "90 s of prefill": Fault(FIRST_BYTE, behind([Hold()], timeouts={"first_byte_s": 0.1})),
    "wrong dimension": Fault(DIMENSIONS, behind([Send(reply(SHORT))]), (TEXTS,), EMBEDDINGS),
    "no streaming": Fault(("stream: emulate",), behind(Refusing([no_stream()]), learn="off"), (STREAMED,)),
    "login page": Fault(URL, behind(PAGE)),
    "login page of the issuer": Fault(TOKEN_URL, token_from(PAGE)),
}
"""The faults behind which gatepass answers. A second entry for a fault is another form of it."""

POST = 'failed to send request: Post "http://gatepass:8080/v1/chat/completions": '
OWN = {
    "90 s of prefill, saved in 0.27": (WAITS, "Timeout accessing model(OpenAI-API-Compatible/m)."),
    "90 s of prefill, saved as an embedding in 0.27": (WAITS, "Timeout accessing embedding model(m)."),
    "90 s of prefill, in a chat of 0.27": (WAITS, "**ERROR**: TIMEOUT - Request timed out."),
    "90 s of prefill, in 1.0": (FIRST_BYTE, f"{POST}net/http: timeout awaiting response headers"),
    "90 s of prefill, beyond the total of 1.0": (FIRST_BYTE, f"**ERROR**: {POST}context deadline exceeded"),
    "wrong dimension, checked": (
        DIMENSIONS,
        "Embedding failure. The dimension (768) of given embedding model is different from the original (1024)",
    ),
    "wrong dimension, imported in 0.27": (
        DIMENSIONS,
        "Generate embedding error:all the input array dimensions except for the concatenation axis must match exactly",
    ),
    "wrong dimension, imported in 1.0": (DIMENSIONS, "tokenizer: unexpected embedding dimensions"),
}
"""Texts that RAGFlow shows without an error of gatepass."""


def in_python(answer: Answer) -> Iterator[str]:
    """The texts up to 0.27: a class of words, and the exception of openai-python."""
    is_stream = answer.status == 200
    text = answer.error["message"] if is_stream else f"Error code: {answer.status} - {answer.json()}"
    shown_class = classify(PORT.sub("", text))
    yield f"**ERROR**: {shown_class} - {text}"
    if shown_class in REPLAYED:
        yield f"**ERROR**: MAX_RETRIES_EXCEEDED - {text}"
    if not is_stream:
        yield f"Fail to access embedding model(m).{text}"
        yield f"Fail to access model(OpenAI-API-Compatible/m).{text}"
        yield f"Fail to bind embedding model: {text}"


def in_go(answer: Answer) -> Iterator[str]:
    """The texts from 1.0 on: the whole body; of an event, the map that Go prints with sorted names."""
    if answer.status == 200:
        members = sorted((name, "<nil>" if value is None else value) for name, value in answer.error.items())
        shown = " ".join(f"{name}:{value}" for name, value in members)
        yield f"**ERROR**: failed to scan response body: upstream stream error: map[{shown}]"
    else:
        text = f"API request failed with status {answer.status}: {answer.body.decode()}"
        yield from (f"**ERROR**: {text}", f"model verification attempts failed: {text}")


def first_row_for(text: str, language: str) -> dict[str, str] | None:
    """The row that a reader finds first by a distinctive part of the text: words, a class of RAGFlow, or a code."""
    rows: list[dict[str, str]] = [row[language] for section in SECTIONS for row in section["rows"]]
    for row in rows:
        parts = (
            part
            for part in re.findall(r"`([^`]+)`", row["see"])
            if " " in part or re.fullmatch(r"[A-Z_]{5,}|[a-z]+_[a-z_]+", part)
        )
        if any(re.search(re.escape(part).replace("…", ".{1,80}?"), text, re.IGNORECASE) for part in parts):
            return row
    return None


def gaps(text: str, mended_by: tuple[str, ...]) -> list[str]:
    """What the first row of this text lacks, in either language."""
    missing = []
    for language in ("en", "zh"):
        row = first_row_for(text, language)
        missing += [] if row else [f"{language}: no row"]
        missing += [f"{name}: {row['see']}" for name in mended_by if row and name not in row["action"]]
    return missing


@pytest.mark.parametrize("name", FAULTS)
async def test_the_text_of_a_fault_leads_to_its_setting_in_one_step(name: str, tmp_path: Path) -> None:
    fault = FAULTS[name]
    async with AsyncExitStack() as stack:
        configuration = await fault.staged(Stage(tmp_path, stack))
        async with gateway(**configuration) as served:
            answers = [await served.ask(body, fault.path).answer() for body in fault.bodies]
    shown = [text for answer in answers for text in (*in_python(answer), *in_go(answer))]
    assert {text: found for text in shown if (found := gaps(text, fault.mended_by))} == {}


@pytest.mark.parametrize("name", OWN)
def test_a_text_of_ragflow_itself_leads_to_its_setting_in_one_step(name: str) -> None:
    mended_by, text = OWN[name]
    assert gaps(text, mended_by) == []


HTTP_401 = '401 The upstream "up" (127.0.0.1:1) does not accept the credential that gatepass sends: revoked.'
BROKEN = "127.0.0.1:1 closed the connection before its reply was complete; whether it did the work is unknown."
PAGE_TEXT = 'The upstream "up" (127.0.0.1:1) answered 200 OK with an HTML page titled "Sign in" instead of JSON'
UNKNOWN_KEY = "The API key is not known to gatepass. Check the client's API key setting."
HOSTS = {
    f"ERROR: unexpected status 401 Unauthorized: {HTTP_401[4:]}": "token_placement",
    f"ERROR: unexpected status 401 Unauthorized: {UNKNOWN_KEY}": "gatepass keys new",
    "ERROR: Codex ran out of room in the model's context window. Start a new thread": "context",
    f"ERROR: stream disconnected before completion: {BROKEN}": "base_url",
    "ERROR: exceeded retry limit, last status: 429 Too Many Requests": "gatepass show",
    "ERROR: unexpected status 503 Service Unavailable: no token for credential c: the issuer refused": "client_secret",
    f"ERROR: unexpected status 502 Bad Gateway: {PAGE_TEXT}": "base_url",
    "ERROR: unexpected status 404 Not Found: You don't own the chat 7c1d.": "agent:ID",
    f"Failed to authenticate. API Error: {HTTP_401}": "token_placement",
    f"Failed to authenticate. API Error: 401 {UNKNOWN_KEY}": "gatepass keys new",
    "Prompt is too long · the request is ~208310 tokens (limit 200000)": "context",
    f"API Error: 502 {BROKEN}": "base_url",
    "API Error: Request rejected (429) · Rate limit reached for this team.": "retry: {on: [refused]}",
    f"API Error: 502 {PAGE_TEXT}": "base_url",
    f"openai.AuthenticationError: Error code: 401 - {{'error': {{'message': \"{UNKNOWN_KEY}\"}}}}": "gatepass keys new",
    "openai.RateLimitError: Error code: 429 - {'error': {'message': 'Rate limit reached'}}": "retry: {on: [refused]}",
    "openai.BadRequestError: Error code: 400 - {'error': {'code': 'context_length_exceeded'}}": "context",
    "openai.NotFoundError: Error code: 404 - {'error': {'message': 'No operation has the path /x.'}}": "",
    "openai.APITimeoutError: Request timed out.": "gatepass show",
    "openai.APIError: The upstream ended its stream before the answer was complete": "base_url",
    "anthropic.APIStatusError: Error code: 502 - No connection to h (connection refused)": "base_url",
}
"""What Codex, Claude Code and the SDKs print, and a word of the action of the row that a reader finds first."""


@pytest.mark.parametrize("text", HOSTS)
def test_a_text_of_a_host_or_an_sdk_leads_to_its_row_first(text: str) -> None:
    for language in ("en", "zh"):
        row = first_row_for(text, language)
        assert row is not None, language
        word = HOSTS[text]
        assert {"context": "context_length"}.get(word, word) in row["action"] or word in row["action"], row["see"]


def test_the_words_in_front_of_an_error_are_found_last_and_their_row_is_short() -> None:
    last = SECTIONS[-1]["rows"]
    assert [row["en"]["see"][:12] for row in last] == ["`AUTH_ERROR`", "`openai.BadR"]


@pytest.mark.parametrize("title", ["RAGFlow", SECTIONS[-1]["en"]["title"]])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_row_of_ragflow_has_at_most_300_characters_beside_the_text(title: str, language: str) -> None:
    rows = next(section["rows"] for section in SECTIONS if section["en"]["title"] == title)
    for row in rows:
        for cell in ("cause", "action"):
            shown = re.sub(r"\]\([^)]*\)|<br>", "", row[language][cell])
            assert len(shown) <= 300, row[language]["see"]
