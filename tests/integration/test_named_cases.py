"""The four cases that brought people here, with the bodies and texts that they met."""

import asyncio
import json
from typing import Any

import pytest
import pytest_asyncio

from tests.integration.answers import COMPLETION, EVENTS, VECTORS
from tests.integration.gateway import CHAT, HELLO, gateway
from tests.integration.ragflow import REPLAYED, classify
from tests.integration.scripted import Rst, Scripted, Send, Wait, reply, stream
from tests.unit.clock import DrivenClock
from tests.waiting import BOUND_S, until

EMBEDDINGS = "/v1/embeddings"

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def model():
    """A model that can all there is, and gatepass before it: `(upstream, gp)`."""

    def answer(request):
        if request.target == EMBEDDINGS:
            return [Send(reply(VECTORS))]
        return [Send(stream(*EVENTS) if request.json().get("stream") else reply(COMPLETION))]

    async with Scripted(answer=answer) as upstream, gateway(upstream=upstream.url) as gp:
        yield upstream, gp


# --- the `images` keyword -----------------------------------------------------------------------------------------

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
DATA_URL = f"data:image/png;base64,{PNG}"
HTTP_URL = "https://img.example/a.png?x=1"
ASKED = "What is in the picture?"


def part(url: str, **more: str) -> dict[str, object]:
    return {"type": "image_url", "image_url": {"url": url, **more}}


SHAPES = {
    "a list of data URLs, as RAGFlow's agents send it": ([DATA_URL], [DATA_URL]),
    "bare base64 of a PNG, and an http URL": ([PNG, HTTP_URL], [DATA_URL, HTTP_URL]),
    "blob and mime_type": ([{"blob": PNG, "mime_type": "image/png"}], [DATA_URL]),
}


def ragflow_chat(**more: object) -> dict[str, Any]:
    """A chat of RAGFlow's LiteLLM classes: the keyword has become a member next to the messages."""
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi!"},
        {"role": "user", "content": ASKED},
    ]
    return {"model": "qwen-vl", "messages": messages, "temperature": 0.1, **more}


@pytest.mark.parametrize("shape", SHAPES)
async def test_top_level_images_go_to_the_last_user_message(model, shape):
    images, urls = SHAPES[shape]
    upstream, gp = model
    answer = await gp.ask(ragflow_chat(images=images)).answer()
    wanted = ragflow_chat()
    wanted["messages"][-1]["content"] = [{"type": "text", "text": ASKED}, *map(part, urls)]
    assert (answer.status, answer.headers["x-gatepass-adapted"]) == (200, f"images={len(urls)}")
    assert upstream.received[-1].json() == wanted


NO_IMAGES = {
    "a file URL": (ragflow_chat(images=[DATA_URL, "file:///etc/passwd"]), "images[1]", "file: URL"),
    "nobody to hold it": (
        {"model": "m", "messages": [{"role": "system", "content": "x"}], "images": [DATA_URL]},
        "images",
        "requires a user message",
    ),
    "in a message": (
        {"model": "m", "messages": [{"role": "user", "content": "x", "images": ["?"]}]},
        "messages[0].images[0]",
        "neither a URL nor base64",
    ),
}


@pytest.mark.parametrize("case", NO_IMAGES)
async def test_invalid_image_is_named_and_nothing_is_sent(model, case):
    body, where, reason = NO_IMAGES[case]
    upstream, gp = model
    before = (upstream.connections, len(upstream.received))
    answer = await gp.ask(body).answer()
    assert (upstream.connections, len(upstream.received)) == before
    error = answer.error
    assert (answer.status, error["code"], error["hop"], error["param"]) == (400, "invalid_image", "client", where)
    assert reason in error["message"]


async def test_ragflows_embeddings_lose_their_strays_and_nothing_else(model):
    upstream, gp = model
    body = b'{"input": ["Test if the api key is available"], "model": "bge-m3", "encoding_format": "float"%b}'
    strays = b', "drop_params": true, "model_type": "embedding"'
    answer = await gp.ask(body % strays, EMBEDDINGS).answer()
    with_images = await gp.ask(b'{"model":"e","input":"x","images":["y"]}', EMBEDDINGS).answer()
    first, second = upstream.received[-2:]
    assert (first.target, first.json()) == ("/v1/embeddings", json.loads(body % b""))
    assert (answer.status, answer.json()) == (200, VECTORS)
    assert answer.headers["x-gatepass-adapted"] == "drop=drop_params, drop=model_type"
    assert second.json() == {"model": "e", "input": "x", "images": ["y"]}
    assert "x-gatepass-adapted" not in with_images.headers


# --- the five-minute token, embeddings on another host ------------------------------------------------------------

LIFE_S = 300
FRESH_S, EXPIRED_S = 0.75 * LIFE_S - 1, LIFE_S - 5.0
"""A token becomes stale between 75 and 80 % of its life, and is not sent in its last five seconds."""
EXPIRED_TOKEN = reply(
    {"error": {"code": 401, "status": "UNAUTHENTICATED", "details": [{"reason": "ACCESS_TOKEN_EXPIRED"}]}}, 401
)


def token(number: int) -> str:
    return f"five-minute-token-{number}"


class Corporation:
    """A login whose tokens live five minutes, and two hosts that require them: one for chats, one for embeddings.

    The hosts reject unknown and expired tokens; `refused` is the number of rejections.
    """

    def __init__(self, clock: DrivenClock) -> None:
        self.clock = clock
        self.minted: dict[str, float] = {}
        self.revoked: set[str] = set()
        self.refused = 0
        self.login_is = "up"
        self.release = asyncio.Event()
        self.refuses = asyncio.Event()
        self.refuses.set()
        self.login = Scripted(answer=self._mint)
        self.chat = Scripted(answer=lambda request: self._serve(request, COMPLETION))
        self.embed = Scripted(answer=lambda request: self._serve(request, VECTORS))

    def _mint(self, request):
        assert (request.method, request.target) == ("POST", "/api/token")
        assert request.json() == {"app_id": "bot", "secret": "portal-secret"}
        if self.login_is == "down":
            return [Rst()]
        text = token(len(self.minted) + 1)
        self.minted[text] = self.clock.now()
        end_ms = int((self.clock.wall() + LIFE_S) * 1000)
        body = {"code": 0, "msg": "ok", "data": {"token": text, "expireAt": end_ms}}
        return [*([Wait(self.release)] if self.login_is == "slow" else []), Send(reply(body))]

    def _serve(self, request, body):
        text = (request.header("authorization") or "").removeprefix("Bearer ")
        age_s = self.clock.now() - self.minted.get(text, float("-inf"))
        if age_s < LIFE_S and text not in self.revoked:
            return [Send(reply(body))]
        self.refused += 1
        return [Wait(self.refuses), Send(EXPIRED_TOKEN)]

    async def until_stale(self, gp):
        """Drive the clock to the moment when the next token is asked for, and no further."""
        holder = gp.state.holders["login"]
        before = holder.status().fetches
        while holder.status().fetches == before and not holder.status().refreshing:
            await self.clock.advance(1)

    def used(self, host: Scripted) -> list[str]:
        return [(request.header("authorization") or "").removeprefix("Bearer ") for request in host.received]

    def blocks(self):
        """The configuration of the day, as the design writes it."""
        login = {
            "type": "http_json",
            "url": f"{self.login.url}/api/token",
            "json": {"app_id": "bot", "secret": "portal-secret"},
            "reply": {"token": "data.token", "expiry": "data.expireAt", "unit": "ms"},
        }
        return {
            "credentials": {"login": login},
            "upstreams": {
                "chat": {"base_url": f"{self.chat.url}/v1", "credential": "login"},
                "embed": {"base_url": f"{self.embed.url}/v1", "credential": "login"},
            },
            "operations": {"embeddings": {"upstream": "embed"}},
            "models": {"*": {"upstream": "chat"}},
        }


@pytest_asyncio.fixture(loop_scope="module")
async def corporation():
    firm = Corporation(DrivenClock())
    async with firm.login, firm.chat, firm.embed:
        yield firm


async def test_chat_and_embeddings_go_to_their_hosts_with_the_token_of_the_login(corporation):
    async with gateway(clock=corporation.clock, **corporation.blocks()) as gp:
        chat = await gp.ask(HELLO).answer()
        vectors = await gp.ask({"model": "e", "input": "x"}, EMBEDDINGS).answer()
    assert (chat.status, chat.json(), vectors.status, vectors.json()) == (200, COMPLETION, 200, VECTORS)
    assert [request.target for request in corporation.chat.received] == ["/v1/chat/completions"]
    assert [request.target for request in corporation.embed.received] == ["/v1/embeddings"]
    assert corporation.used(corporation.chat) == corporation.used(corporation.embed) == [token(1)]
    assert len(corporation.login.received) == 1


async def until_held(gp, text):
    holder = gp.state.holders["login"]
    await until(lambda: (held := holder.current()) is not None and held.text == text)


async def test_a_stale_token_serves_while_the_next_one_is_fetched(corporation):
    async with gateway(clock=corporation.clock, **corporation.blocks()) as gp:
        await gp.ask().answer()
        corporation.login_is = "slow"
        await corporation.until_stale(gp)
        assert FRESH_S < corporation.clock.now() - corporation.minted[token(1)] <= 0.80 * LIFE_S + 1
        await corporation.login.requested(2)
        during = [await gp.ask().answer() for _ in range(3)]
        corporation.release.set()
        await until_held(gp, token(2))
        after = await gp.ask().answer()
    assert [answer.status for answer in (*during, after)] == [200] * 4
    assert corporation.used(corporation.chat) == [token(1)] * 4 + [token(2)]
    assert (corporation.refused, len(corporation.login.received)) == (0, 2)


async def test_a_login_that_is_down_is_not_felt_before_the_end_and_an_expired_token_is_never_sent(corporation):
    clock = corporation.clock
    async with gateway(clock=clock, **corporation.blocks()) as gp:
        assert (await gp.ask().answer()).status == 200
        corporation.login_is = "down"
        while clock.now() < corporation.minted[token(1)] + EXPIRED_S - 5:
            await clock.advance(5)
            assert (await gp.ask().answer()).status == 200
        sent = len(corporation.chat.received)
        await clock.advance(6)
        dead = asyncio.create_task(gp.ask().answer())
        async with asyncio.timeout(BOUND_S):
            while not dead.done():
                await clock.advance(0.1)
        late = dead.result()
    assert (late.status, late.error["code"], late.error["hop"]) == (503, "token_unavailable", "credential:login")
    assert corporation.login.url.removeprefix("http://") in late.error["message"]
    assert (corporation.refused, len(corporation.chat.received)) == (0, sent)
    assert 1 <= int(late.headers["retry-after"]) <= 5
    assert "x-should-retry" not in late.headers


async def test_401_before_the_expiry_causes_one_new_token_and_one_repeat(corporation):
    async with gateway(clock=corporation.clock, **corporation.blocks()) as gp:
        await gp.ask().answer()
        corporation.revoked.add(token(1))
        answer = await gp.ask().answer()
        vectors = await gp.ask({"model": "e", "input": "x"}, EMBEDDINGS).answer()
    assert (answer.status, answer.headers["x-gatepass-attempts"], vectors.status) == (200, "2", 200)
    assert corporation.used(corporation.chat) == [token(1), token(1), token(2)]
    assert corporation.used(corporation.embed) == [token(2)]
    assert len(corporation.login.received) == 2


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_401_to_the_new_token_too_is_the_upstreams_own_answer(corporation, streamed):
    corporation.revoked |= {token(1), token(2)}
    async with gateway(clock=corporation.clock, **corporation.blocks()) as gp:
        answer = await gp.ask({**HELLO, "stream": streamed}).answer()
    assert (answer.status, answer.error["code"], answer.error["hop"]) == (401, "upstream_auth", "upstream:chat")
    assert answer.headers["x-should-retry"] == "false"
    assert answer.headers["x-gatepass-hop"] == "upstream:chat"
    assert answer.error["message"].count("and once more with a new one, fetched 0 s ago.") == 1
    assert corporation.used(corporation.chat) == [token(1), token(2)]


MANY = 40


async def test_many_401s_at_once_are_one_token_call_and_no_failure(corporation):
    async with gateway(clock=corporation.clock, **corporation.blocks()) as gp:
        await gp.ask().answer()
        corporation.revoked.add(token(1))
        corporation.refuses.clear()
        asking = [asyncio.create_task(gp.ask().answer()) for _ in range(MANY)]
        await corporation.chat.requested(1 + MANY)
        corporation.refuses.set()
        answers = await asyncio.gather(*asking)
    assert [answer.status for answer in answers] == [200] * MANY
    assert (len(corporation.login.received), corporation.refused) == (2, MANY)


# --- RAGFlow as the upstream: errors in HTTP 200 ------------------------------------------------------------------

RAGFLOW: dict[str, tuple[dict[str, Any], int]] = {
    "no messages": ({"code": 102, "message": "You have to provide messages."}, 400),
    "not yours": ({"code": 102, "message": "You don't own the chat 8a1f0c"}, 404),
    "argument": ({"code": 101, "message": "`llm_id` gpt-4 doesn't exist"}, 400),
    "exception": (
        {"code": 100, "data": None, "message": "TypeError(\"expected string or bytes-like object, got 'list'\")"},
        502,
    ),
    "not signed in": ({"code": 109, "data": None, "message": "Authentication error: API key is invalid!"}, 403),
    "absent": ({"code": 404, "data": None, "error": "Not Found", "message": "Not Found: /api/v1/openai/x"}, 404),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ragflow():
    """A RAGFlow that answers with the error whose case the request names as its `user`."""
    async with Scripted(answer=lambda request: [Send(reply(RAGFLOW[request.json()["user"]][0]))]) as upstream:
        base_url = f"{upstream.url}/api/v1/openai/8a1f0c"
        async with gateway(upstreams={"rag": {"base_url": base_url}}) as gp:
            yield upstream, gp


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("case", RAGFLOW)
async def test_ragflows_error_in_a_200_has_its_status_and_message(ragflow, case, streamed):
    body, status = RAGFLOW[case]
    upstream, gp = ragflow
    answer = await gp.ask({**HELLO, "model": "model", "stream": streamed, "user": case}).answer()
    assert upstream.received[-1].target == "/api/v1/openai/8a1f0c/chat/completions"
    error = answer.error
    assert (answer.status, answer.headers["content-type"]) == (status, "application/json")
    assert (error["code"], error["hop"]) == (str(body["code"]), "upstream:rag")
    assert body["message"].strip() in error["message"]
    assert answer.headers["x-gatepass-hop"] == "upstream:rag"


async def test_ragflows_own_streams_are_relayed():
    """Its chunks have no blank after the colon, `[DONE]` too, and two content types; its role in every chunk goes."""
    lines = (
        b'data:{"id":"chatcmpl-8a1f0c","choices":[{"delta":{"content":"hi","role":"assistant","function_call":null,'
        b'"tool_calls":null,"reasoning_content":null},"finish_reason":null,"index":0,"logprobs":null}],'
        b'"created":1755,"model":"model","object":"chat.completion.chunk","system_fingerprint":"","usage":null}\n\n'
        b'data:{"id":"chatcmpl-8a1f0c","choices":[{"delta":{"content":null,"role":"assistant"},'
        b'"finish_reason":"stop","index":0}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}\n\n'
        b"data:[DONE]\n\n"
    )
    two = b"content-type: text/html; charset=utf-8\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    raw = b"HTTP/1.1 200 OK\r\n" + two + b"content-length: %d\r\n\r\n" % len(lines) + lines
    async with Scripted([Send(raw)]) as upstream, gateway(upstream=upstream.url) as gp:
        answer = await gp.ask({**HELLO, "stream": True}).answer()
    first, last, done = lines.split(b"\n\n")[:3]
    assert answer.status == 200
    assert answer.body.startswith(first + b"\n\n")
    assert answer.body.endswith(done + b"\n\n")
    expected = json.loads(last.removeprefix(b"data:"))
    expected["choices"][0]["delta"] = {"content": None}
    expected |= {"object": "chat.completion.chunk", "created": 1755, "model": "model"}
    assert json.loads(answer.events[1]) == expected
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"


# --- a model that does not stream ---------------------------------------------------------------------------------

NO_STREAM = {
    "message": (
        "Unsupported value: 'stream' does not support true with this model."
        " Only the default (false) value is supported."
    ),
    "type": "invalid_request_error",
    "param": "stream",
    "code": "unsupported_value",
}


async def test_a_refused_stream_is_a_400_that_states_what_to_do():
    async with (
        Scripted([Send(reply({"error": NO_STREAM}, 400))]) as upstream,
        gateway(upstreams={"chat": {"base_url": f"{upstream.url}/v1", "learn": "off"}}) as gp,
    ):
        answer = await gp.ask({**HELLO, "stream": True}, CHAT).answer()
    error = answer.error
    assert (answer.status, answer.headers["content-type"]) == (400, "application/json")
    assert {name: error[name] for name in ("type", "param", "code", "hop")} == {
        "type": "invalid_request_error",
        "param": "stream",
        "code": "unsupported_value",
        "hop": "upstream:chat",
    }
    assert error["message"].startswith(NO_STREAM["message"])
    assert "upstreams.chat.learn: on" in error["message"]
    assert "x-gatepass-tried" not in answer.headers
    assert len(upstream.received) == 1
    assert classify(f"Error code: 400 - {json.dumps(answer.json())}") not in REPLAYED


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_expired_token_reported_inside_a_200_is_renewed_once_and_the_request_sent_again(streamed):
    """A gateway that answers `{"code":401,"msg":"token expired"}` with HTTP 200."""
    tokens = iter(["tok-first-1", "tok-second-2", "tok-third-3"])
    expired = Send(reply({"code": 401, "msg": "token expired"}))

    def mint(_):
        return [Send(reply({"access_token": next(tokens), "expires_in": 300}))]

    def serve(asked):
        good = asked.header("authorization") == "Bearer tok-second-2"
        answer = [Send(stream(*EVENTS))] if streamed else [Send(reply(COMPLETION))]
        return answer if good else [expired]

    async with Scripted(answer=mint) as issuer, Scripted(answer=serve) as upstream:
        credential = {"type": "oauth2", "token_url": issuer.url, "client_id": "i", "client_secret": "a-long-secret"}
        upstreams = {"chat": {"base_url": upstream.url, "credential": "corp"}}
        async with gateway(upstreams=upstreams, credentials={"corp": credential}) as gp:
            answer = await gp.ask({**HELLO, "stream": streamed}).answer()
            assert answer.status == 200
            assert [asked.header("authorization") for asked in upstream.received] == [
                "Bearer tok-first-1",
                "Bearer tok-second-2",
            ]
            assert len(issuer.received) == 2
