"""`gatepass doctor` reports what it has tested, and no more: strict, open, lost and silent servers."""

import asyncio
import json
import re
import ssl
from collections.abc import Callable
from contextlib import AsyncExitStack, aclosing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trustme
from click.testing import CliRunner

from gatepass.cli import main
from gatepass.cli.doctor import NOTHING, NOTHING_PROVEN
from gatepass.cli.probe import ProbeCall
from gatepass.cli.steps import diagnose, diagnose_for_page
from gatepass.clock import SystemClock, Timer
from gatepass.config.load import load
from gatepass.config.model import Config
from gatepass.config.routes import OperationRoute
from gatepass.documents import DoctorTask, StepOutcome
from gatepass.errors import InvalidRequest, explanations
from gatepass.proxy.app_state import create_app_state
from gatepass.server.inspection import stories
from tests.integration.answers import COMPLETION, VECTORS
from tests.integration.findings import Check, check_of, found
from tests.integration.gateway import serving
from tests.integration.scripted import Dialogue, Hold, Received, Rst, Scripted, Send, head, reply
from tests.integration.store.responder import Responder, responding
from tests.integration.test_connections import refusing_server
from tests.integration.transport.test_tls import server_context
from tests.jwt_signer import SigningKey, key_set

KEY = "static-key-4711"
PROVE = explanations()["list_public"].action
LIST = [Send(reply({"object": "list", "data": [{"id": "m"}]}))]
REFUSED = [Send(reply({"error": {"message": "bad token", "code": "invalid_token"}}, 401))]
PAGE = [Send(reply(b"<html><title>Sign in</title>", content_type="text/html"))]
ANSWERS = {"/v1/chat/completions": COMPLETION, "/v1/embeddings": VECTORS}

WORKS, FAILS, UNPROVEN, SKIPPED = StepOutcome.WORKS, StepOutcome.FAILS, StepOutcome.UNPROVEN, StepOutcome.SKIPPED
TAKEN = Check("upstream:chat", WORKS, "answers and accepts the token")
CONFIGURED = Check("credential:c", WORKS, "a key is configured; it does not expire", proves=False)


class Hurried(SystemClock):
    """So much faster that bounds of ten seconds can be waited for."""

    def __init__(self, times: float = 10) -> None:
        self.times = times

    def now(self) -> float:
        return super().now() * self.times

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Timer:
        return super().call_later(delay_s / self.times, callback)


def static(text: str = KEY) -> dict[str, Any]:
    return {"c": {"type": "static", "token": text}}


def oauth2(issuer: str) -> dict[str, Any]:
    return {"c": {"type": "oauth2", "token_url": f"{issuer}/token", "client_id": "me", "client_secret": "secret-4711"}}


def one(upstream: Scripted | str, credentials: dict[str, Any] | None = None, **blocks: Any) -> dict[str, Any]:
    """A configuration of one upstream, `chat`, whose credential is `c` where one is given."""
    url = upstream if isinstance(upstream, str) else upstream.url
    hop = {"base_url": f"{url}/v1", **({"credential": "c"} if credentials else {})}
    return {"upstreams": {"chat": hop}, "credentials": credentials or {}, **blocks}


def strict(request: Received) -> Dialogue:
    """Requires the key, then returns a model list and an answer to every request."""
    if request.header("authorization") not in (f"Bearer {KEY}", "Bearer minted-4711"):
        return REFUSED
    return LIST if request.target == "/v1/models" else [Send(reply(ANSWERS[request.target]))]


def without_list(request: Received) -> Dialogue:
    return [Send(reply({"detail": "Not Found"}, 404))] if request.target == "/v1/models" else strict(request)


def for_strangers(dialogue: Dialogue) -> Callable[[Received], Dialogue]:
    """The list for those who show the key, `dialogue` for others."""
    return lambda request: LIST if request.header("authorization") == f"Bearer {KEY}" else dialogue


async def test_token_is_proven_if_the_same_call_without_it_is_refused():
    async with Scripted(answer=strict) as upstream:
        assert await found(one(upstream, static())) == [CONFIGURED, TAKEN]
    shown = [(request.method, request.target, request.header("authorization")) for request in upstream.received]
    assert shown == [("GET", "/v1/models", f"Bearer {KEY}"), ("GET", "/v1/models", None)]


@pytest.mark.parametrize(
    "dialogue",
    [REFUSED, PAGE, [Send(head(302, location="https://sso.example/login", content_length="0"))]],
    ids=["401", "login page", "redirect to a login"],
)
async def test_every_rejection_of_a_request_without_token_proves_the_token(dialogue):
    async with Scripted(answer=for_strangers(dialogue)) as upstream:
        assert (await found(one(upstream, static())))[1] == TAKEN


@pytest.mark.parametrize(
    ("dialogue", "expected"),
    [
        ([Send(reply({"error": "slow down"}, 429))], "429 upstream_error"),
        ([Send(reply({"error": "boom"}, 500))], "500 upstream_error"),
        ([Rst()], "502 upstream_closed"),
    ],
)
async def test_a_request_without_token_that_is_not_rejected_proves_nothing(dialogue, expected):
    async with Scripted(answer=for_strangers(dialogue)) as upstream:
        _, hop = await found(one(upstream, static()))
    assert (hop.hop, hop.outcome) == ("upstream:chat", UNPROVEN)
    assert hop.finding.startswith(f"answers; without the token it returns {expected}, so this does not show whether")


@pytest.mark.parametrize("calls", [[], [ProbeCall("chat", "acme-v1"), ProbeCall("chat", "acme-v1", stream=True)]])
@pytest.mark.parametrize(
    ("listed", "operation", "upstream"),
    [
        ({"embeddings": ["acme-v1"]}, None, "embeddings"),
        ({"rerank": ["acme-v1"], "embeddings": ["other"]}, None, "rerank"),
        ({"embeddings": ["acme-v1"], "chat": ["acme-v1"]}, None, "chat"),
        ({"embeddings": ["acme-v1"], "rerank": ["acme-v1"]}, None, "chat"),
        ({"embeddings": ["acme-v1"]}, "chat", "chat"),
        ({}, None, "chat"),
    ],
)
async def test_the_list_that_names_a_model_decides_about_its_operation(listed, operation, upstream, calls):
    """A name that says nothing of its kind, over the lists of three hosts."""
    async with AsyncExitStack() as stack:
        hosts = {}
        for name in ("chat", "embeddings", "rerank"):
            entries = [{"id": model} for model in listed.get(name, ["m"])]
            answer = partial(lambda answer, _: answer, [Send(reply({"data": entries}))])
            hosts[name] = await stack.enter_async_context(Scripted(answer=answer))
        config = Config.model_validate(
            {
                "upstreams": {name: {"base_url": host.url} for name, host in hosts.items()},
                "models": {"*": {"upstream": "chat"}},
                "operations": {name: {"upstream": name} for name in ("embeddings", "rerank")},
            }
        )
        found = [step async for step in diagnose(config, calls, model="acme-v1", operation=operation)]
    assert {step.hop for step in found} == {f"upstream:{upstream}"}
    assert found[0].outcome is (WORKS if "acme-v1" in listed.get(upstream, ()) else UNPROVEN if calls else FAILS)
    operations = {"chat": {"chat as", "chat with"}, "embeddings": {"embeddings with"}, "rerank": {"rerank with"}}
    assert {" ".join(step.why.split()[:2]) for step in found[1:]} == (operations[upstream] if calls else set())


async def test_vectors_of_another_length_than_the_declared_one_fail():
    models = {"m": {"upstream": "chat", "capabilities": {"dimensions": 1024}}}
    async with Scripted([Send(reply(VECTORS))]) as upstream:
        (step,) = await found(one(upstream, models=models), ProbeCall("embeddings", "m"))
    assert (step.hop, step.outcome) == ("upstream:chat", FAILS)
    assert "a vector has 2 numbers, and models.m.capabilities.dimensions declares 1024. " in step.finding


async def steps_of_calls(blocks: dict[str, Any], model: str = "m") -> list[tuple[str, StepOutcome, str, str]]:
    calls = [ProbeCall("chat", model), ProbeCall("chat", model, stream=True)]
    async with aclosing(diagnose(Config.model_validate(blocks), calls)) as steps:
        return [(one.what, one.outcome, one.why, one.advice) async for one in steps]


def replace_key(place: str) -> str:
    return f"Replace the key in {place}, then run `gatepass reload`, or restart gatepass for a variable."


IN_CREDENTIAL = replace_key("credentials.c")
IN_HEADER = replace_key("upstreams.chat.headers.Api-Key")
SETTING = "Set upstreams.chat.credential."


@pytest.mark.parametrize(
    ("credential", "headers", "status", "case", "advice"),
    [
        ({"type": "static", "token": KEY}, {}, 401, "static_key", IN_CREDENTIAL),
        (None, {"Api-Key": KEY, "X-Team": "search"}, 401, "header_key", IN_HEADER),
        (None, {"X-Team": "search"}, 401, "no_credential", SETTING),
        (
            {"type": "static", "token": KEY},
            *({}, 403, "static_key"),
            f"If the upstream rejects this key, r{IN_CREDENTIAL[1:]}",
        ),
        (None, {"Api-Key": KEY}, 403, "header_key", f"If the upstream rejects this key, r{IN_HEADER[1:]}"),
        (None, {}, 403, "no_credential", SETTING),
    ],
)
async def test_a_rejected_key_is_reported_with_its_place_to_clients_by_doctor_and_in_the_story(
    tmp_path, credential, headers, status, case, advice
):
    refusal = with_list(lambda _: [Send(reply({"error": {"message": "invalid token"}}, status))])
    async with Scripted(answer=refusal) as upstream:
        settings = one(upstream, {"c": credential} if credential else None)
        settings["upstreams"]["chat"]["headers"] = headers
        file = tmp_path / "gatepass.yaml"
        file.write_text(json.dumps(settings))
        config = load(str(file), {"LLM_KEY": KEY}).config
        steps = [step async for step in diagnose_for_page(config, DoctorTask("m", call=True), lambda *_: None)]
        async with serving(create_app_state(config)) as served:
            answer = await served.ask().answer()
            (story,) = await stories(served.state, answer.headers["x-request-id"], bodies=False)
    assert steps[-2].why_zh.endswith(f"。{explanations()[case].sentence_zh}")
    assert answer.status == status
    assert answer.error["message"].endswith(advice)
    if status == 401:
        lacking = "requires a credential that gatepass does not send"
        assert (lacking in answer.error["message"]) is (case == "no_credential")
    assert story.error is not None
    assert (story.error.case, steps[-2].advice) == (case, story.error.action)
    action = story.error.action.replace("`", "")
    assert action.lower() in advice.replace("`", "").lower()


OTHER_LOGIN = "If the host needs another login, give this upstream its own `credential`."


@pytest.mark.parametrize(
    ("kind", "is_new", "settings"),
    [
        ("oauth2", True, ["credentials.c.scope", "credentials.c.audience"]),
        ("oauth2", False, ["credentials.c.scope", "credentials.c.audience"]),
        ("http_json", True, []),
    ],
)
async def test_each_rejection_of_a_token_is_explained_as_the_first_with_the_settings_of_its_credential(
    kind, is_new, settings
):
    def mint(_: Received) -> Dialogue:
        return [Send(reply({"access_token": f"minted-{len(issuer.received) if is_new else 0}", "expires_in": 300}))]

    async with Scripted(answer=mint) as issuer, Scripted(answer=lambda _: REFUSED) as upstream:
        credential = oauth2(issuer.url)["c"] if kind == "oauth2" else {"type": kind, "url": issuer.url}
        async with serving(create_app_state(Config.model_validate(one(upstream, {"c": credential})))) as served:
            answers = [await served.ask().answer() for _ in range(3)]
            told = [await stories(served.state, one.headers["x-request-id"], bodies=False) for one in answers]
    for answer, (story,) in zip(answers, told, strict=True):
        message = answer.error["message"]
        assert message.endswith(" `gatepass token c` shows a new token's claims and where it is sent.")
        assert "Check whether" not in message, "the settings are in `gatepass show` and doctor"
        assert story.error is not None
        places = ", ".join(f"`{place}`" for place in settings) + " or " * bool(settings)
        differs = f"{places}`upstreams.chat.token_placement` differs from what the upstream requires. {OTHER_LOGIN}"
        assert differs in story.error.action
        assert differs.partition(" differs")[0].replace(", ", "、").replace(" or ", " 或 ") in story.error.action_zh
    once, renewed = "Tried once, with the token", "Tried with the token"
    tried = [renewed, renewed, once] if is_new else [once] * 3
    assert [text in one.error["message"] for text, one in zip(tried, answers, strict=True)] == [True] * 3


async def test_an_upstream_without_a_model_list_is_not_proven():
    async with Scripted([Send(reply({"detail": "no"}, 405))]) as upstream:
        _, hop = await found(one(upstream, static()))
    assert hop == Check(
        "upstream:chat",
        UNPROVEN,
        f"answers, but GET /v1/models returns 405: it has no model list, or base_url is wrong,"
        f" so this shows neither whether base_url is right nor whether the token is accepted {PROVE}",
    )


async def test_a_base_url_without_its_version_fails_unless_the_calls_decide():
    missing = [Send(reply({"detail": "Not Found"}, 404))]
    async with Scripted(
        answer=lambda asked: missing if asked.method == "GET" else [Send(reply(COMPLETION))]
    ) as upstream:
        blocks = one(upstream)
        blocks["upstreams"]["chat"]["base_url"] = upstream.url
        (hop,) = await found(blocks)
        listed, called, _ = await steps_of_calls(blocks)
    assert (hop.outcome, listed[1], called[1]) == (FAILS, UNPROVEN, WORKS)
    assert hop.finding.endswith(f" Set upstreams.chat.base_url to {upstream.url}/v1, if its paths begin with /v1.")


SLOW = {"base_url": "http://127.0.0.1:9/v1", "timeouts": {"total_s": 0.2}}
FAST = {"timeouts": {"total_s": 0.2}}


@pytest.mark.parametrize(
    ("of_upstream", "blocks", "setting"),
    [
        (FAST, {}, "upstreams.chat.timeouts.total_s"),
        ({"timeouts": {"total_s": 600}}, {"models": {"m": {"upstream": "chat", **FAST}}}, "models.m.timeouts.total_s"),
        (
            {},
            {"models": {"m": {"targets": [{"upstream": "first"}, {"upstream": "chat"}]}}},
            "upstreams.first.timeouts.total_s",
        ),
    ],
    ids=["upstream", "model", "first target"],
)
async def test_a_call_fails_after_the_total_timeout_of_a_request(of_upstream, blocks, setting):
    async with Scripted(answer=with_list(lambda _: [Hold()])) as upstream:
        config = one(upstream, **blocks)
        config["upstreams"]["chat"] |= of_upstream
        if "first" in setting:
            config["upstreams"]["first"] = SLOW
        *_, hop = (await found(config, ProbeCall("chat", "m", stream=not blocks), Hurried(2)))[:1]
        await upstream.left()
    assert (hop.hop, hop.outcome) == ("upstream:chat", FAILS)
    assert hop.finding.partition(": ")[2].startswith(
        f"504 upstream_timeout_total: The answer was not complete after 0.2 s ({setting})."
        f" Raise `{setting}`, or check the upstream."
    )


def late(issuer: str, limit_s: float, timeout_s: float) -> str:
    limit = f"{limit_s:g} s, the limit of this check (credentials.c.timeout_s is {timeout_s:g} s)"
    return f"no token from {issuer.removeprefix('http://')} within {limit}"


TIMEOUT = "`credentials.c.timeout_s`"


@pytest.mark.parametrize(
    ("timeout_s", "limit_s", "advice"),
    [
        (600.0, 30, "Check whether the issuer is up."),
        (30.0, 30, f"Check whether the issuer is up, or raise {TIMEOUT}, for example to 60, if it is only slow."),
        (10.0, 10, f"Check whether the issuer is up, or raise {TIMEOUT}, for example to 20, if it is only slow."),
    ],
)
async def test_a_silent_issuer_is_waited_for_up_to_30_seconds_and_its_upstream_is_skipped(timeout_s, limit_s, advice):
    async with Scripted([Hold()]) as issuer, Scripted(answer=strict) as upstream:
        blocks = one(upstream, oauth2(issuer.url))
        blocks["credentials"]["c"]["timeout_s"] = timeout_s
        checks = await found(blocks, clock=Hurried())
    assert checks == [
        Check("credential:c", FAILS, f"{late(issuer.url, limit_s, timeout_s)} {advice}"),
        Check("upstream:chat", SKIPPED, "its credential failed"),
    ]
    assert upstream.received == []


@pytest.mark.parametrize(
    ("issuer", "dialogue", "settings"),
    [
        ("http://127.0.0.1:9", [], {"credentials.c.token_url", "network.proxy"}),
        ("http://sso.invalid", [], {"credentials.c.token_url", "network.proxy"}),
        ("", [Send(reply({"error": "no such path"}, 404))], {"credentials.c.token_url"}),
        ("", PAGE, {"credentials.c.token_url"}),
        (
            "",
            [Send(reply({"error": "invalid_client"}, 401))],
            {f"credentials.c.client_{one}" for one in ("id", "secret")},
        ),
        ("tls", [], {"network.ca_file"}),
    ],
    ids=["refused connection", "DNS", "404", "page", "wrong secret", "CA"],
)
async def test_a_failure_of_a_credential_names_its_settings_in_both_languages(issuer, dialogue, settings, tmp_path):
    tls = server_context() if issuer == "tls" else None
    async with Scripted(answer=lambda _: dialogue, tls=tls) as server:
        blocks = one(server, oauth2(server.url if issuer in ("", "tls") else issuer))
        blocks["credentials"]["c"]["allow_plain_http"] = True
        async with aclosing(diagnose(Config.model_validate(blocks))) as steps:
            step = await anext(steps)
        (file := tmp_path / "gatepass.yaml").write_text(json.dumps(blocks))
        command = ["token", "--config", str(file)]
        told = []
        for language in ("C.UTF-8", "zh_CN.UTF-8"):
            ran = await asyncio.to_thread(CliRunner().invoke, main, command, env={"LC_ALL": language})
            told.append(ran.output)
    found_in = [
        set(re.findall(r"(?:credentials\.c|network)\.\w+", text)) for text in (step.advice, step.advice_zh, *told)
    ]
    assert [settings <= names for names in found_in] == [True] * 4
    assert (found_in[0], found_in[2]) == (found_in[1], found_in[3])


def stored(responder: Responder, password: str = "password-of-the-store") -> dict[str, Any]:
    url = f"valkey://127.0.0.1:{responder.port}"
    return {"url": url, "password": password, "encryption_key": "k" * 32}


async def test_a_store_that_answers_is_reported_and_proves_no_upstream():
    async with Scripted(answer=strict) as upstream, responding(Responder(b"password-of-the-store")) as responder:
        checks = await found(one(upstream, static(), store=stored(responder)))
        route = await found(one(upstream, static(), store=stored(responder)), ProbeCall("chat", "m"))
    assert checks == [
        Check("store", WORKS, f"127.0.0.1:{responder.port} answers, and the encryption key matches", proves=False),
        CONFIGURED,
        TAKEN,
    ]
    assert "store" not in [check.hop for check in route]


@pytest.mark.parametrize("mood", ["", "quoting"])
async def test_a_store_that_refuses_the_password_fails_with_its_reason_without_the_secret(mood):
    async with Scripted(answer=strict) as upstream, responding(Responder(b"another-password", b"x")) as responder:
        responder.mood = mood or responder.mood
        checks = await found(one(upstream, static(), store=stored(responder)))
    assert [check.outcome for check in checks] == [FAILS, WORKS, WORKS]
    assert checks[0].finding.startswith(f"127.0.0.1:{responder.port} is not used: ")
    assert ("***" if mood else "invalid username-password pair") in checks[0].finding
    assert mood or "store.password" in checks[0].finding
    assert "password-of-the-store" not in checks[0].finding


def posted(upstream: Scripted) -> list[Received]:
    """The calls, without the requests for the model list before them, and the empty ones after them."""
    return [request for request in upstream.received if request.method == "POST" and request.body != b"{}"]


def with_list(answer: Callable[[Received], Dialogue]) -> Callable[[Received], Dialogue]:
    return lambda request: LIST if request.method == "GET" else answer(request)


async def test_doctors_call_is_one_small_request_like_a_clients():
    async with Scripted(answer=without_list) as upstream:
        models = {"gpt": {"upstream": "chat", "name": "gpt-240806"}}
        _, hop = await found(one(upstream, static(), models=models), ProbeCall("chat", "gpt"))
    assert (hop.hop, hop.outcome) == ("upstream:chat", WORKS)
    assert hop.finding == "chat with gpt (sent as gpt-240806): 200"
    (asked,) = posted(upstream)
    assert (asked.method, asked.target, asked.header("authorization")) == (
        "POST",
        "/v1/chat/completions",
        f"Bearer {KEY}",
    )
    assert asked.json() == {"model": "gpt-240806", "messages": [{"role": "user", "content": "ping"}], "max_tokens": 16}


async def test_doctor_renews_a_rejected_token_as_for_a_client():
    """Some gateways write a 401 into a 200; the token of a start may have ended elsewhere since."""

    def forgetful(request: Received) -> Dialogue:
        is_first = request.header("authorization") == "Bearer minted-1"
        return [Send(reply({"code": 401, "msg": "token expired"} if is_first else COMPLETION))]

    minted = [[Send(reply({"access_token": f"minted-{number}", "expires_in": 300}))] for number in (1, 2)]
    async with Scripted(*minted) as issuer, Scripted(answer=forgetful) as upstream:
        _, hop = await found(one(upstream, oauth2(issuer.url)), ProbeCall("chat", "m"))
    assert hop.outcome is WORKS
    # the list of models has renewed the token
    assert [request.header("authorization") for request in posted(upstream)] == ["Bearer minted-2"]


async def test_a_trial_call_reaches_every_target_of_its_route_and_no_other():
    async with Scripted(answer=strict) as chat, Scripted([Send(reply(VECTORS))]) as lost, Scripted(LIST) as embed:
        blocks = {
            "credentials": {**static(), "off": oauth2(embed.url)["c"]},
            "upstreams": {
                "chat": {"base_url": f"{chat.url}/v1", "credential": "c"},
                "spare": {"base_url": lost.url},
                "embed": {"base_url": embed.url, "credential": "off"},
            },
            "models": {
                "best": {"targets": [{"upstream": "spare"}, {"upstream": "chat", "name": "a"}, {"upstream": "chat"}]}
            },
        }
        checks = await found(blocks, ProbeCall("chat", "best"))
    reported = [(check.hop, check.outcome, check.finding.partition(":")[0]) for check in checks]
    assert reported == [
        ("credential:c", WORKS, "a key is configured; it does not expire"),
        ("upstream:chat", WORKS, "chat with best (sent as a)"),
        ("upstream:chat", WORKS, "chat with best"),
        ("upstream:spare", FAILS, "chat with best"),
    ]
    assert embed.connections == 0


async def test_a_finding_is_there_before_the_next_hop_is_tried():
    async with Scripted([Hold()]) as silent:
        config = Config.model_validate(one(silent, static()))
        async with aclosing(diagnose(config)) as checks:
            assert check_of(await anext(checks)) == CONFIGURED
            assert silent.connections == 0


async def test_cancelled_check_leaves_no_connection_and_no_task():
    def own_tasks() -> list[str]:
        return [task.get_name() for task in asyncio.all_tasks() if task.get_name().endswith(" of c")]

    async with Scripted([Hold()]) as silent:
        giving_up = asyncio.create_task(found(one(silent, static())))
        await silent.requested()
        assert own_tasks() == ["refresh of c"]
        giving_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await giving_up
        await silent.left()
        assert own_tasks() == []


async def doctor(folder: Path, blocks: dict[str, Any], *options: str) -> tuple[int, list[str], str]:
    """The exit code of `gatepass doctor` with these blocks, its lines, and those of stderr."""
    file = folder / "gatepass.json"
    file.write_text(json.dumps(blocks))
    file.chmod(0o600)
    command = ["doctor", *options, "--config", str(file)]
    result = await asyncio.to_thread(CliRunner().invoke, main, command)
    return result.exit_code, result.stdout.splitlines(), result.stderr


async def test_doctor_prints_only_findings_and_fails_with_the_first_failure(tmp_path):
    async with Scripted(answer=with_list(lambda _: REFUSED)) as upstream:
        blocks = one(upstream, static("a-wrong-key-4711"))
        code, lines, errors = await doctor(tmp_path, blocks)
        assert (code, errors) == (NOTHING_PROVEN, f"{NOTHING}\n")
        assert lines[1].startswith("ok   credential:c token: a key is configured; it does not expire")
        public = "answers; its model list is public, so this does not show whether it accepts the token"
        assert lines[-1].startswith(f"???? upstream:chat models: {public}. {PROVE}")
        code, lines, errors = await doctor(tmp_path, blocks, "m", "--call")
    assert (code, errors) == (1, "")
    assert lines[-2].startswith("FAIL upstream:chat call: chat with m: 401 upstream_auth: ")
    assert lines[-1].startswith("FAIL upstream:chat stream: chat as a stream with m: 401 upstream_auth: ")


async def test_the_call_of_an_unknown_name_does_not_refer_to_the_list_above_it(tmp_path):
    error = {"error": {"message": "The model `nosuch` does not exist", "code": "model_not_found"}}
    async with Scripted(answer=with_list(lambda _: [Send(reply(error, 404))])) as upstream:
        code, lines, _ = await doctor(tmp_path, one(upstream), "nosuch", "--call")
    assert (code, "the list has no model nosuch" in "".join(lines)) == (1, True)
    assert "or set `models.nosuch.name` in the configuration file" in lines[-1]
    assert "lists its names" not in lines[-1]


async def test_a_name_that_the_configuration_sends_is_corrected_there_and_the_list_is_shown():
    names = [f"m-{number}" for number in range(12)]
    listing = [Send(reply({"object": "list", "data": [{"id": name} for name in ["big-chat", *names]]}))]
    async with Scripted(answer=lambda _: listing) as upstream:
        config = Config.model_validate(one(upstream, models={"smart": {"upstream": "chat", "name": "big-chta"}}))
        steps = [step async for step in diagnose(config, model="smart")]
    listed = next(step for step in steps if step.what == "models")
    shown = ", ".join(["big-chat", *names][:10])
    assert listed.why == f"the list has no model big-chta; did you mean big-chat? There are {shown}"
    assert listed.advice.startswith("Correct models.smart.name. ")
    assert listed.why_zh == f"模型列表中没有 big-chta（是否为 big-chat？），列出的模型有 {shown.replace(', ', '、')}"


async def test_doctor_of_the_page_calls_the_operation_that_it_is_asked_for_and_words_its_action_by_the_code():
    missing = reply({"detail": "Not Found"}, 404)
    answers = [reply({"results": [{"index": 0, "relevance_score": 0.5}]}), missing, missing]
    async with Scripted(answer=with_list(lambda _: [Send(answers.pop(0))])) as upstream:
        config = Config.model_validate(one(upstream))
        task = DoctorTask("bge", call=True, operation="rerank")
        *_, works = [step async for step in diagnose_for_page(config, task, lambda *_: None)]
        *_, fails = [step async for step in diagnose_for_page(config, task, lambda *_: None)]
        assert (works.why, works.why_zh) == ("rerank with bge: 200", "用 bge 调用 rerank：状态码 200")
        assert [request.target for request in posted(upstream)] == ["/v1/rerank"] * 2
        said = "用 bge 调用 rerank：状态码 404，错误码 upstream_error。"
        assert fails.why_zh == said + explanations()["no_path"].sentence_zh
        assert all("`operations.rerank.upstream`" in text for text in (fails.advice, fails.advice_zh))
        chosen = config.model_copy(update={"operations": {"rerank": OperationRoute(upstream="chat")}})
        *_, fails = [step async for step in diagnose_for_page(chosen, task, lambda *_: None)]
        assert all("`upstreams.chat.base_url`" in text for text in (fails.advice, fails.advice_zh))
        with pytest.raises(InvalidRequest, match="doctor has no call for speech"):
            await anext(diagnose_for_page(config, DoctorTask("bge", call=True, operation="speech"), lambda *_: None))


@pytest.mark.parametrize(("keys", "outcome"), [(0, FAILS), (1, WORKS)])
async def test_a_key_set_without_a_key_for_signatures_fails(tmp_path, keys, outcome):
    (file := tmp_path / "keys.jwks").write_text(json.dumps({"keys": [SigningKey("a").jwk] * keys}))
    row = {"claim": "roles", "contains": "llm", "name": "people"}
    entry = {"issuer": "https://login.example", "audience": "gatepass", "jwks": str(file), "callers": [row]}
    async with Scripted(answer=strict) as upstream:
        (step,) = [one for one in await found(one(upstream, static(), access={"jwt": [entry]})) if "jwt" in one.hop]
    assert step.outcome == outcome
    text = "keys for signatures: 1" if keys else "cannot be used: its key set has no keys for signatures"
    assert text in step.finding
    assert keys or "jwks" in step.finding


async def test_keys_that_cannot_be_used_are_told_beside_those_that_can(tmp_path):
    short = {**SigningKey("a", bits=1024).jwk, "kid": "b"}
    (file := tmp_path / "keys.jwks").write_bytes(key_set(SigningKey("a"), short, {**short, "n": ""}))
    row = {"claim": "roles", "contains": "llm", "name": "people"}
    entry = {"issuer": "https://login.example", "audience": "gatepass", "jwks": str(file), "callers": [row]}
    async with Scripted(answer=strict) as upstream:
        (step,) = [one for one in await found(one(upstream, static(), access={"jwt": [entry]})) if "jwt" in one.hop]
    assert step.outcome == WORKS
    why = "2 of 3 keys cannot be used (kid b: it has 1024 bits, not 2048 to 16384)"
    assert f"keys for signatures: 1; {why}" in step.finding


ROOT = trustme.CA()


def ending_in(days: float, tmp_path: Path, name: str = "own") -> tuple[ssl.SSLContext, dict[str, str]]:
    """A server's context with a certificate for so many days more, and its files."""
    end = datetime.now(UTC) + timedelta(days=days, hours=1)
    leaf = ROOT.issue_cert("127.0.0.1", not_before=end - timedelta(days=400), not_after=end)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf.configure_cert(context)
    files = {"cert_file": str(tmp_path / f"{name}.pem"), "key_file": str(tmp_path / f"{name}.key")}
    leaf.cert_chain_pems[0].write_to_path(files["cert_file"])
    leaf.private_key_pem.write_to_path(files["key_file"])
    ROOT.cert_pem.write_to_path(tmp_path / "ca.pem")
    return context, files


async def tls_steps(blocks: dict[str, Any], tmp_path: Path) -> dict[str, tuple[str, str]]:
    """The outcome and the reason of each step about a certificate, by its hop, without the time of its end."""
    (tmp_path / "f.json").write_text(json.dumps({**blocks, "network": {"ca_file": str(tmp_path / "ca.pem")}}))
    steps = [step async for step in diagnose(load(str(tmp_path / "f.json"), {}).config)]
    assert not any(step.proves for step in steps if step.what == "tls" and step.outcome is WORKS)
    end = r"\d{4}-\d\d-\d\d \d\d:\d\d UTC"
    return {step.hop: (str(step.outcome), re.sub(end, "END", step.why)) for step in steps if step.what == "tls"}


@pytest.mark.parametrize(
    ("days", "ends"), [(9, "ends in 9 days, at END"), (1, "ends in 1 day, at END"), (30, "is valid until END")]
)
async def test_each_server_with_tls_says_when_its_certificate_ends(days, ends, tmp_path):
    context, _ = ending_in(days, tmp_path)
    keys = [Send(reply(key_set(SigningKey("k"))))]
    async with AsyncExitStack() as stack:
        answers = (LIST, REFUSED, keys)
        servers = [Scripted(*[answer] * 9, tls=context) for answer in answers]
        upstream, issuer, key_server = [await stack.enter_async_context(server) for server in servers]
        row = {"claim": "sub", "equals": "me", "name": "me"}
        jwt = {"issuer": "https://sso.corp.example", "jwks": key_server.url, "audience": "a", "callers": [row]}
        blocks = {**one(upstream, oauth2(issuer.url)), "access": {"jwt": [jwt]}}
        blocks["upstreams"]["twice"] = blocks["upstreams"]["chat"]
        blocks["models"] = {"*": {"upstream": "chat"}}
        told = await tls_steps(blocks, tmp_path)
    assert told == dict.fromkeys(
        ("upstream:chat", "credential:c", "access.jwt[0]"), ("works", f"the certificate of 127.0.0.1 {ends}")
    )


@pytest.mark.parametrize(
    ("days", "outcome", "ends"),
    [
        (20, "works", "the certificate of gatepass is valid until END"),
        (3, "works", "the certificate that clients receive ends in 3 days, at END"),
        (-2, "fails", "the certificate that clients receive is not valid now: certificate has expired"),
    ],
)
async def test_the_own_certificate_says_when_it_ends(days, outcome, ends, tmp_path):
    _, files = ending_in(days, tmp_path)
    async with Scripted(answer=lambda _: LIST) as upstream:
        assert await tls_steps({**one(upstream), "server": {"tls": files}}, tmp_path) == {"gatepass": (outcome, ends)}


async def test_the_certificate_of_a_dead_server_has_no_step(tmp_path):
    with refusing_server() as closed:
        dead = one(closed.replace("http:", "https:"))
        ending_in(9, tmp_path)
        assert await tls_steps(dead, tmp_path) == {}


def test_a_certificate_that_ends_soon_changes_no_exit_code(tmp_path):
    _, files = ending_in(3, tmp_path)
    (tmp_path / "f.json").write_text(json.dumps({**one("http://127.0.0.1:9"), "server": {"tls": files}}))
    result = CliRunner().invoke(main, ["doctor", "--config", str(tmp_path / "f.json"), "--json"])
    document = json.loads(result.stdout)
    assert (document["exit_code"], document["failed"]) == (1, ["upstream:chat models"])
    assert [step["advice"] for step in document["steps"] if step["what"] == "tls"] != [""]


@pytest.mark.parametrize("language", ["why", "why_zh"])
async def test_an_issuer_whose_connection_breaks_is_named_with_its_url(language, tmp_path):
    row = {"claim": "sub", "equals": "me", "name": "me"}
    async with Scripted(answer=lambda _: LIST) as upstream, Scripted(answer=lambda _: [Rst()]) as issuer:
        jwt = {"issuer": f"{issuer.url}/realms/a", "audience": "a", "callers": [row]}
        blocks = {**one(upstream), "access": {"jwt": [jwt]}}
        (tmp_path / "f.json").write_text(json.dumps(blocks))
        steps = [step async for step in diagnose(load(str(tmp_path / "f.json"), {}).config)]
    (why,) = [getattr(step, language) for step in steps if step.what == "keys"]
    assert f"{issuer.url}/realms/a" in why
    assert f"{issuer.url}/realms/a/.well-known/openid-configuration: " in why
    assert "whether it did the work" not in why
