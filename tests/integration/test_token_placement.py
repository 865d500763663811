"""A token arrives at the upstream in the way that is configured, and is shown nowhere else."""

from typing import Any
from urllib.parse import quote

from tests.integration.answers import COMPLETION
from tests.integration.gateway import HELLO, gateway
from tests.integration.scripted import Dialogue, Received, Rst, Scripted, Send, reply
from tests.integration.test_secrets import assert_silent, logged

TOKEN = "24.a/token+of~many=="
SUBSCRIPTION = "0123456789abcdef-subscription"
GOOD = [Send(reply(COMPLETION))]


def blocks(upstream: Scripted, placement: dict[str, Any], **more: Any) -> dict[str, Any]:
    credential = {"type": "static", "token": TOKEN, "token_placement": placement}
    chat = {"base_url": f"{upstream.url}/v1", "credential": "key", **more}
    return {"credentials": {"key": credential}, "upstreams": {"chat": chat}}


async def test_token_placement_of_an_upstream_overrides_the_credentials():
    async with Scripted(GOOD) as upstream:
        both = blocks(upstream, {"headers": {"api-key": "{token}"}})
        both["upstreams"]["query"] = {**both["upstreams"]["chat"], "token_placement": {"query": "key"}}
        both["models"] = {"m": {"upstream": "chat"}, "q": {"upstream": "query"}}
        async with gateway(**both) as gp:
            for model in ("m", "q"):
                assert (await gp.ask({**HELLO, "model": model}).answer()).status == 200
    first, second = upstream.received
    assert (first.header("authorization"), second.header("authorization")) == (None, None)
    assert (first.target, first.header("api-key")) == ("/v1/chat/completions", TOKEN)
    assert (second.target, second.header("api-key")) == (f"/v1/chat/completions?key={quote(TOKEN, safe='')}", None)


def received(request: Received) -> str:
    fields = "; ".join(f"{name}: {value}" for name, value in request.headers)
    return f"{request.target} [{fields}] {quote(request.target, safe='')}"


def echo(request: Received) -> Dialogue:
    case = request.json().get("user") if request.body else "json"
    text = received(request)
    if case == "reset":
        return [Rst()]
    if case == "moved":
        return [Send(reply(b"", 302, location=f"https://sso.example{request.target}&next={quote(request.target)}"))]
    if case == "page":
        return [Send(reply(f"<html><title>{text}</title>".encode(), content_type="text/html"))]
    return [Send(reply({"error": {"message": text, "code": text[-90:]}}, 401 if case == "refused" else 400))]


async def test_a_token_in_a_query_is_printed_nowhere_in_any_echo():
    log = {"format": "text", "level": "debug"}
    bodies = ""
    async with Scripted(answer=echo) as upstream:
        config = blocks(upstream, {"query": "access_token"}, headers={"Ocp-Apim-Subscription-Key": SUBSCRIPTION})
        async with gateway(log=log, **config) as gp:
            with logged(gp.state) as out:
                for case in ("json", "refused", "moved", "page", "reset"):
                    for stream in (False, True):
                        answer = await gp.ask({**HELLO, "user": case, "stream": stream}).answer()
                        bodies += answer.body.decode() + str(answer.headers)
                bodies += (await gp.ask(None, "/v1/models", method="GET").answer()).body.decode()
                for page in ("/metrics", "/status"):
                    bodies += (await gp.ask(None, page, method="GET").answer()).body.decode()
                shown = repr(gp.state) + repr(gp.state.upstreams["chat"].injector)
    assert bodies.count("***") > 5
    assert "/v1/chat/completions" in bodies
    secrets = [TOKEN, quote(TOKEN, safe=""), quote(quote(TOKEN, safe=""), safe=""), SUBSCRIPTION]
    for text, where in ((bodies, "an answer"), (out.getvalue(), "the log"), (shown, "a repr")):
        assert_silent(text, secrets, where)
    assert_silent(out.getvalue().lower(), [quote(TOKEN, safe="").lower()], "the log")
