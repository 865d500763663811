"""Any form of a rejected token: one new token, one repeat, no storm."""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Self

import pytest

from gatepass.config.access import hash_key
from gatepass.config.references import Reference
from gatepass.dialects.hints import MODEL_CHARS
from gatepass.proxy.app_state import MOST_ACCEPTED
from tests.integration.answers import COMPLETION, EVENTS
from tests.integration.gateway import CHAT, HELLO, JSON, Answer, Gateway, gateway, relaying
from tests.integration.refusing import without
from tests.integration.scripted import Dialogue, Hold, Received, Scripted, Send, event, head, reply, stream
from tests.unit.clock import DrivenClock

PAGE = b"<!doctype html><html><head><title>Sign in to Corp</title></head><body>no tokens here</body></html>"


@dataclass(frozen=True)
class RejectionForm:
    """The upstream's rejection, the configuration for it, and the client's error if the upstream never accepts."""

    reply_bytes: bytes
    rejection: Mapping[str, Any] = field(default_factory=dict)
    status: int = 401
    code: str = "upstream_auth"
    streams: tuple[bool, ...] = (False, True)


FORMS = {
    "a 401": RejectionForm(reply({"error": {"message": "token expired", "type": "authentication_error"}}, 401)),
    "a 403": RejectionForm(
        reply({"error": {"message": "forbidden", "code": "denied"}}, 403), {"statuses": [403]}, 403, "denied"
    ),
    "a 403 that says so in its header": RejectionForm(
        reply({"error": "no"}, 403, www_authenticate='Bearer realm="corp", error="invalid_token"'),
        {},
        403,
        "upstream_error",
    ),
    "a number that begins with 401": RejectionForm(reply({"code": 40101, "msg": "who?"}), {}, 401, "upstream_auth"),
    "a code in a 200": RejectionForm(reply({"code": "A0230", "msg": "the session is over"}), {"codes": ["A0230"]}),
    "a type in a 400": RejectionForm(
        reply(
            {"error": {"message": "No connected db.", "type": "no_db_connection", "param": None, "code": "400"}}, 400
        ),
        {"codes": ["no_db_connection"]},
        400,
    ),
    "a type in a 200": RejectionForm(
        reply({"error": {"message": "over", "type": "session_ended"}}), {"codes": ["session_ended"]}
    ),
    "words in a 200": RejectionForm(reply({"code": 401, "msg": "token expired"})),
    "Baidu's code in a 200": RejectionForm(
        reply({"error_code": 110, "error_msg": "Access token invalid or no longer valid"})
    ),
    "an HTML page": RejectionForm(reply(PAGE, content_type="text/html"), {}, 502, "upstream_html"),
    "a login page with a 403": RejectionForm(reply(PAGE, 403, content_type="text/html"), {}, 403, "upstream_html"),
    "a redirect": RejectionForm(
        head(302, location="https://sso.corp.example/login?session=secret", content_length="0"),
        {},
        502,
        "upstream_redirect",
    ),
    "a stream's first event": RejectionForm(
        stream(event({"error": {"message": "token expired", "code": "token_expired"}})),
        {},
        401,
        "token_expired",
        (True,),
    ),
}
CASES = [(form, streamed) for form in FORMS for streamed in FORMS[form].streams]


class Firm:
    """An issuer, and an upstream that accepts the tokens in `good`, or all issued tokens if it is None."""

    def __init__(self, form: RejectionForm) -> None:
        self.form = form
        self.minted: list[str] = []
        self.revoked: set[str] = set()
        self.takes_nothing = False
        self.forbidden = ""
        self.only: str | None = None
        self.issuer = Scripted(answer=self._mint)
        self.chat = Scripted(answer=self._serve)

    async def __aenter__(self) -> Self:
        """Start both. A test that replaces `chat` runs its own, and the first one is closed all the same."""
        async with AsyncExitStack() as servers:
            await servers.enter_async_context(self.issuer)
            await servers.enter_async_context(self.chat)
            self._servers = servers.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._servers.aclose()

    def _mint(self, _: Received) -> Dialogue:
        self.minted.append(self.only or f"token-number-{len(self.minted) + 1}")
        return [Send(reply({"access_token": self.minted[-1], "expires_in": 3600}))]

    def _serve(self, request: Received) -> Dialogue:
        token = (request.header("authorization") or "").removeprefix("Bearer ")
        is_forbidden = self.takes_nothing or request.json()["model"] == self.forbidden
        if is_forbidden or token not in self.minted or token in self.revoked:
            return [Send(self.form.reply_bytes)]
        return [Send(stream(*EVENTS) if request.json().get("stream") else reply(COMPLETION))]

    def blocks(self, **more: Any) -> dict[str, Any]:
        corp = {"type": "oauth2", "token_url": self.issuer.url, "client_id": "i", "client_secret": "a-long-secret"}
        upstream = {"base_url": self.chat.url, "credential": "corp", "rejection": dict(self.form.rejection), **more}
        return {"credentials": {"corp": corp}, "upstreams": {"chat": upstream}}

    @property
    def shown(self) -> list[str]:
        """The number of each token that the upstream saw, in order."""
        return [(request.header("authorization") or "").rpartition("-")[2] for request in self.chat.received]


async def asked(gp: Gateway, streamed: bool = False) -> Answer:
    return await gp.ask({**HELLO, "stream": streamed}).answer()


@pytest.mark.parametrize(("form", "streamed"), CASES)
async def test_a_rejection_is_one_new_token_and_one_repeat(form, streamed):
    async with Firm(FORMS[form]) as firm, gateway(**firm.blocks()) as gp:
        assert (await asked(gp)).status == 200
        firm.revoked.add(firm.minted[0])
        answer = await asked(gp, streamed)
        assert (answer.status, answer.headers["x-gatepass-attempts"]) == (200, "2")
        assert answer.body == b"".join(EVENTS) if streamed else answer.json() == COMPLETION
        assert (firm.shown, len(firm.minted)) == (["1", "1", "2"], 2)


@pytest.mark.parametrize(("form", "streamed"), CASES)
async def test_a_rejection_of_the_new_token_too_is_the_upstreams_own_answer(form, streamed):
    wanted = FORMS[form]
    async with Firm(wanted) as firm, gateway(**firm.blocks()) as gp:
        firm.takes_nothing = True
        answer = await asked(gp, streamed)
        assert (answer.status, answer.error["code"]) == (wanted.status, wanted.code)
        assert answer.headers["x-gatepass-hop"] == "upstream:chat"
        assert firm.shown == ["1", "2"]
        assert "secret" not in answer.body.decode()
        assert not wanted.code.startswith("upstream_") or len(answer.error["message"].encode()) < 500


@pytest.mark.parametrize("form", ["a 401", "a 403", "a 403 that says so in its header", "words in a 200"])
async def test_a_model_that_always_rejects_costs_two_tokens_and_its_requests_are_sent(form):
    """A company behind one caller, as RAGFlow's: its other models are still healed."""
    async with Firm(FORMS[form]) as firm, gateway(**firm.blocks()) as gp:
        assert (await asked(gp)).status == 200
        firm.forbidden = "forbidden"
        answers = [await gp.ask({**HELLO, "model": firm.forbidden}).answer() for _ in range(5)]
        assert [answer.status for answer in answers] == [FORMS[form].status] * 5
        assert "renewals within the last 60 s did not help." in answers[-1].error["message"]
        assert "gatepass reload" not in answers[-1].error["message"], "the entry of the case says how to apply a repair"
        assert (firm.shown, len(firm.minted)) == (["1", "1", "2", "2", "3", "3", "3", "3"], 3)
        firm.revoked.add(firm.minted[-1])
        assert (await asked(gp)).status == 200
        assert len(firm.minted) == 4


@pytest.mark.parametrize("form", ["a 401", "words in a 200"])
async def test_a_renewed_token_that_arrives_late_at_the_upstream_ends_no_renewal(form):
    """The upstream knows each new token only after its first use, so each revoked token costs one request."""
    async with Firm(FORMS[form]) as firm, gateway(**firm.blocks()) as gp:
        assert (await asked(gp)).status == 200
        for number in range(2, 8, 2):
            firm.revoked |= {*firm.minted, f"token-number-{number}"}
            assert (await asked(gp)).status == FORMS[form].status
            firm.revoked.discard(f"token-number-{number}")
            assert [(await asked(gp)).status for _ in range(2)] == [200, 200], "the same token"
            firm.revoked.add(f"token-number-{number}")
            assert (await asked(gp)).status == 200, "the next one"
        assert len(firm.minted) == 7


async def test_rejection_without_a_body_delays_no_renewal():
    stalled: Dialogue = [Send(head(401, content_length="500") + b"{"), Hold()]
    async with Firm(FORMS["a 401"]) as firm:
        firm.chat = Scripted(stalled, [Send(reply(COMPLETION))])
        async with firm.chat, gateway(**firm.blocks()) as gp:
            assert (await asked(gp)).status == 200  # the rest of the body never comes
            assert firm.shown == ["1", "2"]


FILTERED = reply(
    "<html><title>Request Rejected</title><body>Blocked.<br>Your support ID is: 4711-0815-123</body></html>",
    content_type="text/html",
)


class Filtered:
    """An issuer, and an upstream that accepts its newest token, behind a filter that answers `rm -rf` with `page`."""

    def __init__(self, page: bytes) -> None:
        self.page, self.issued, self.good = page, 0, ""

    def issue(self, _: Received) -> Dialogue:
        self.issued += 1
        self.good = f"token-{self.issued}"
        return [Send(reply({"access_token": self.good, "expires_in": 300}))]

    def answer(self, request: Received) -> Dialogue:
        if request.header("authorization") != f"Bearer {self.good}":
            return [Send(reply({"error": {"message": "token expired"}}, 401))]
        return [Send(self.page if b"rm -rf" in request.body else reply(COMPLETION))]


@pytest.mark.parametrize(
    ("page", "shown"),
    [
        (FILTERED, "4711-0815-123"),
        (reply(b"<p>Incident ID: <b>18-99ab77</b></p>", 403, content_type="text/html"), "18-99ab77"),
        (head(302, location="https://waf.corp.example/x?support_id=998877", content_length="0"), "998877"),
    ],
)
async def test_the_page_of_a_filter_names_its_id_and_stops_no_renewal(page: bytes, shown: str) -> None:
    it, wicked = Filtered(page), {**HELLO, "messages": [{"role": "user", "content": "rm -rf"}]}
    async with Scripted(answer=it.issue) as issuer, Scripted(answer=it.answer) as upstream:
        login = {"type": "oauth2", "token_url": issuer.url, "client_id": "i", "client_secret": "s3cret-of-i"}
        chat = {"base_url": f"{upstream.url}/v1", "credential": "corp", "rejection": {"statuses": [403]}}
        async with gateway(upstreams={"chat": chat}, credentials={"corp": login}) as gp:
            assert (await gp.ask().answer()).status == 200
            for _ in range(3):
                got = await gp.ask(wicked).answer()
                assert (got.status in (403, 502), shown in got.json()["error"]["message"]) == (True, True), got.body
            assert it.issued == 2, "one renewal a minute"
            it.good = "revoked"
            assert (await gp.ask().answer()).status == 200


class Strict(Firm):
    """Refuses two members before it looks at the token."""

    def _serve(self, request: Received) -> Dialogue:
        refused = next((name for name in ("seed", "top_p") if name in request.json()), None)
        return super()._serve(request) if refused is None else without(refused).dialogue


@pytest.mark.parametrize("form", ["a 401", "a code in a 200", "words in a 200"])
async def test_a_rejection_after_a_change_is_renewed_once_and_is_no_error_of_the_clients_request(form):
    async with Strict(FORMS[form]) as firm, gateway(**firm.blocks()) as gp:
        assert (await asked(gp)).status == 200
        firm.revoked.add(firm.minted[0])
        healed = await gp.ask({**HELLO, "seed": 1}).answer()
        assert (healed.status, firm.shown, len(firm.minted)) == (200, ["1", "1", "1", "2"], 2)
        assert healed.headers["x-gatepass-adapted"] == "drop=seed"
        firm.takes_nothing = True
        failed = await gp.ask({**HELLO, "top_p": 0.5}).answer()
        assert (failed.status, failed.error["code"]) == (401, "upstream_auth")
        assert failed.headers["x-gatepass-adapted"] == "drop=top_p"
        assert failed.error["message"].lower().startswith("with `drop=top_p`: the ")
        assert (firm.shown[4:], len(firm.minted)) == (["2", "2", "3"], 3)


def keyed(first: str, *more: str) -> dict[str, Any]:
    """Callers of which the first may use all models, and each other one the model of its own name."""
    keys: list[dict[str, Any]] = [{"name": first, "hash": hash_key(f"gp-{first}-0123456789abcdef")}]
    keys += [{"name": one, "hash": hash_key(f"gp-{one}-0123456789abcdef"), "models": [one]} for one in more]
    return {"keys": keys}


BEHIND = "if the key was not revoked since, the upstream's own key for what is behind it is wrong."
PROVIDERS = {
    "LiteLLM": ({"error": {"message": "litellm.AuthenticationError: Incorrect API key provided: back-****"}}, 401),
    "no reason": ({}, 401),
    "a form of its own": ({"detail": "Ungültiger Schlüssel"}, 401),
    "a 403": ({"error": {"message": "API key is invalid"}}, 403),
    "in a 200": ({"code": 401, "msg": "密钥错误"}, 200),
}


@pytest.mark.parametrize("place", ["credential", "header"])
@pytest.mark.parametrize("form", PROVIDERS)
async def test_a_key_that_was_accepted_for_another_model_is_not_called_wrong_alone(form, place):
    document, status = PROVIDERS[form]
    clock, wrong = DrivenClock(), {"broken"}

    def serve(request: Received) -> Dialogue:
        return [Send(reply(document, status) if request.json()["model"] in wrong else reply(COMPLETION))]

    async with Scripted(answer=serve) as upstream:
        key = {"credential": "llm"} if place == "credential" else {"headers": {"x-api-key": "sk-of-the-upstream"}}
        login = {"llm": {"type": "static", "token": "sk-of-the-upstream"}} if "credential" in key else {}
        blocks: dict[str, Any] = {"upstreams": {"chat": {"base_url": upstream.url, **key}}, "credentials": login}
        async with gateway(**blocks, clock=clock) as gp:
            said = [await gp.ask({**HELLO, "model": "broken"}).answer()]
            for name in ("good", "broken"):
                said.append(await gp.ask({**HELLO, "model": name}).answer())
                await clock.advance(40)
            said.append(await gp.ask({**HELLO, "model": "broken"}).answer())
            wrong.add("good")
            said.append(await gp.ask({**HELLO, "model": "good"}).answer())
            await clock.advance(300)
            said += [await gp.ask({**HELLO, "model": "good"}).answer() for _ in range(2)]
    texts = [one.error["message"] if one.status != 200 else "" for one in said]
    assert "accepted it" not in texts[0]
    assert f"The upstream accepted it 40 s ago for 'good': {BEHIND}" in texts[2]
    assert f"The upstream accepted it 1 min ago for 'good': {BEHIND}" in texts[3]
    assert f"accepted it 1 min ago for 'good': {BEHIND}" in texts[4], "the same model, within five minutes"
    assert ["accepted it" in text for text in texts[5:]] == [False, False]
    first, later = said[0], said[2]
    assert all(first.error[name] == later.error[name] for name in ("code", "hop"))
    assert first.status == later.status
    place_named = "credentials.llm" if place == "credential" else "upstreams.chat.headers.x-api-key"
    assert place_named in texts[2].partition(BEHIND)[2], "today's setting follows"


async def test_a_key_that_replaced_another_in_its_file_was_never_accepted(tmp_path):
    def serve(request: Received) -> Dialogue:
        is_good = (request.header("authorization") or "").endswith("good-key") and request.json()["model"] != "other"
        return [Send(reply(COMPLETION) if is_good else reply({"error": {"message": "no"}}, 401))]

    (key := tmp_path / "key").write_text("sk-good-key")
    async with Scripted(answer=serve) as upstream:
        chat, clock = {"base_url": upstream.url, "credential": "llm"}, DrivenClock()
        credentials = {"llm": {"type": "static", "token": Reference.to_file(str(key))}}
        async with gateway(upstreams={"chat": chat}, credentials=credentials, clock=clock) as gp:
            assert (await asked(gp)).status == 200
            said = [(await gp.ask({**HELLO, "model": "other"}).answer()).error["message"] for _ in range(2)]
            key.write_text("sk-wrong-key")
            await clock.advance(3)
            while "wrong" not in (upstream.received[-1].header("authorization") or ""):
                said.append((await gp.ask({**HELLO, "model": "other"}).answer()).error["message"])
    assert ["accepted it" in text for text in (*said[:2], said[-1])] == [True, True, False]


async def test_only_a_model_that_the_caller_may_see_is_named_and_no_three_digits():
    def serve(request: Received) -> Dialogue:
        return [Send(reply({"error": {"message": "no"}}, 401) if request.json()["model"] == "b" else reply(COMPLETION))]

    async def said(gp: Gateway, who: str, model: str) -> str:
        headers = {**JSON, "authorization": f"Bearer gp-{who}-0123456789abcdef"}
        answer = await gp.ask({**HELLO, "model": model}, headers=headers).answer()
        return "" if answer.status == 200 else answer.error["message"]

    credentials = {"llm": {"type": "static", "token": "sk-of-the-upstream"}}
    async with Scripted(answer=serve) as upstream:
        block = {"base_url": upstream.url, "credential": "llm"}
        models = {"*": {"upstream": "chat"}, "known": {"upstream": "chat"}}
        access = keyed("all", "b")
        async with gateway(upstreams={"chat": block}, credentials=credentials, models=models, access=access) as gp:
            await said(gp, "all", "secret-project")
            assert "ago for another model: if" in await said(gp, "b", "b")
            assert "ago for 'secret-project': if" in await said(gp, "all", "b")
            await said(gp, "all", "known")
            assert "ago for another model: if" in await said(gp, "b", "b"), "it may not use it"
            assert "ago for 'known': if" in await said(gp, "all", "b")
        async with gateway(upstreams={"chat": block}, credentials=credentials) as gp:
            await gp.ask({**HELLO, "model": "gpt-0429"}).answer()
            answer = await gp.ask({**HELLO, "model": "b"}).answer()
            assert "ago for another model: if" in answer.error["message"]


@pytest.mark.parametrize(
    "message",
    ["key not allowed to access model b", "You do not have access to this model", "当前密钥无权限使用该模型"],
)
async def test_a_model_that_the_key_may_not_use_says_nothing_of_the_upstreams_own_key(message):
    def serve(request: Received) -> Dialogue:
        refused = reply({"error": {"message": message}}, 401)
        return [Send(refused if request.json()["model"] == "b" else reply(COMPLETION))]

    async with Scripted(answer=serve) as upstream:
        credentials = {"llm": {"type": "static", "token": "sk-of-the-upstream"}}
        chat = {"base_url": upstream.url, "credential": "llm"}
        async with gateway(upstreams={"chat": chat}, credentials=credentials) as gp:
            assert (await asked(gp)).status == 200
            answer = await gp.ask({**HELLO, "model": "b"}).answer()
    assert "accepted it" not in answer.error["message"]


async def test_a_login_that_another_model_accepts_is_told_as_a_login():
    async with Firm(FORMS["a 401"]) as firm, gateway(**firm.blocks()) as gp:
        assert (await asked(gp)).status == 200
        firm.forbidden = "forbidden"
        answer = await gp.ask({**HELLO, "model": "forbidden"}).answer()
    assert "again with a new one" in answer.error["message"]
    assert "The upstream accepted it 0 s ago for 'm': if the login was not revoked since" in answer.error["message"]


async def test_a_bounded_number_of_accepted_models_is_known():
    async with relaying(answer=lambda _: [Send(reply(COMPLETION))]) as (_, gp):
        for number in range(MOST_ACCEPTED + 2):
            await gp.ask({**HELLO, "model": f"m{number}"}).answer()
        await gp.ask({**HELLO, "model": "x" * (MODEL_CHARS + 1)}).answer()
        known = gp.state.upstreams["chat"].state.accepted
    assert (len(known), "m0" in known, "m2" in known) == (MOST_ACCEPTED, False, True)
    assert max(map(len, known)) <= MODEL_CHARS


PLACES: dict[str, tuple[str, dict[str, Any]]] = {
    "a stream": (CHAT, {**HELLO, "model": "broken", "stream": True}),
    "vectors in parts": ("/v1/embeddings", {"model": "broken", "input": ["a"] * 3}),
    "a message": ("/v1/messages", {**HELLO, "model": "broken", "max_tokens": 9}),
    "a response": ("/v1/responses", {"model": "broken", "input": "hi"}),
    "a ranking": ("/v1/rerank", {"model": "broken", "query": "q", "documents": ["d"]}),
}


@pytest.mark.parametrize("place", PLACES)
async def test_what_was_accepted_before_is_told_over_every_api(place):
    """Also what a call in parts accepted."""
    path, body = PLACES[place]
    wrong = {"error": {"message": "Incorrect API key provided: back-****", "code": 401}}

    def serve(request: Received) -> Dialogue:
        sent = request.json()
        if sent["model"] == "broken":
            return [Send(stream(event(wrong)) if sent.get("stream") else reply(wrong, 401))]
        return [Send(reply({"data": [{"index": at, "embedding": [0.5]} for at in range(len(sent["input"]))]}))]

    login = {"llm": {"type": "static", "token": "sk-of-the-upstream"}}
    models: dict[str, Any] = {name: {"upstream": "chat", "rules": {"split": 1}} for name in ("*", "vectors")}
    async with Scripted(answer=serve) as upstream:
        chat = {"base_url": f"{upstream.url}/v1", "credential": "llm"}
        async with gateway(upstreams={"chat": chat}, credentials=login, models=models) as gp:
            assert (await gp.ask({"model": "vectors", "input": ["a", "b"]}, "/v1/embeddings").answer()).status == 200
            said = (await gp.ask(body, path).answer()).error["message"]
    assert "accepted it 0 s ago for 'vectors': if the key was not revoked" in said
