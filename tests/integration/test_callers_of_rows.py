"""Callers by tokens at run time: what is by identity, what by the row's name, and what no one reads."""

import asyncio
import base64
import json
import logging
import re
from pathlib import Path
from typing import Any

import jwt
import msgspec
import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gatepass.cli.story_lines import story_lines, summary_line
from gatepass.config.access import hash_key
from gatepass.documents import ReloadResult
from gatepass.errors import InvalidRequest
from gatepass.observability.access_log import LOG as ACCESS_LOG
from gatepass.observability.capture import CaptureSettings
from gatepass.server.inspection import limits_of, requests_listing, start_capture, stories
from gatepass.server.pages import status_of
from gatepass.server.reload import KEYS_LOST, Reloader, _readings
from gatepass.server.views import callers
from tests.integration.answers import COMPLETION
from tests.integration.gateway import HELLO, JSON, Answer, Gateway, gateway, relaying
from tests.integration.scripted import Dialogue, Received, Scripted, Send, Wait, reply
from tests.integration.test_mcp import INITIALIZE, LIST, RESULT, post, servers
from tests.integration.test_reload import Serve, events, serve
from tests.integration.test_tracing import Collector
from tests.jwt_signer import SigningKey, key_set
from tests.unit.clock import DrivenClock
from tests.waiting import until

__all__ = ["events", "serve"]  # fixtures

ISSUER = "https://login.corp.example/realms/corp"
SIGNING = Ed25519PrivateKey.generate()
KEY = "gp-people-0123456789abcdef"
GOOD: Dialogue = [Send(reply(COMPLETION))]
SUBJECT = "0f3c1d9e-subject"


def write_keys(folder: Path) -> str:
    public = SIGNING.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    point = base64.urlsafe_b64encode(public).rstrip(b"=").decode()
    file = folder / "keys.jwks"
    file.write_text(json.dumps({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": point, "kid": "k1", "use": "sig"}]}))
    return str(file)


@pytest.fixture
def jwks(tmp_path: Path) -> str:
    return write_keys(tmp_path)


def token(clock_s: float, subject: str, **claims: Any) -> str:
    made = {"iss": ISSUER, "sub": f"{SUBJECT}-{subject}", "aud": "api://gp", "exp": clock_s + 300, "roles": ["user"]}
    return jwt.encode({**made, **claims}, SIGNING, "EdDSA", headers={"kid": "k1"})


def issuer(jwks: str, *rows: dict[str, Any]) -> dict[str, Any]:
    found = [{"claim": "roles", "contains": "user", "name_from": "email", "name": "people", **row} for row in rows]
    return {"issuer": ISSUER, "audience": "api://gp", "jwks": jwks, "callers": found}


def by(text: str) -> dict[str, str]:
    return {**JSON, "authorization": f"Bearer {text}"}


def access(jwks: str, **row: Any) -> dict[str, Any]:
    limits = {"limits": {"requests": {"minute": 2}}}
    return {"keys": [{"name": "people", "hash": hash_key(KEY), **limits}], "jwt": [issuer(jwks, {**limits, **row})]}


async def test_each_identity_of_a_row_has_its_limits_and_a_key_of_the_same_name_shares_nothing(jwks, caplog):
    caplog.set_level(logging.DEBUG)
    clock = DrivenClock()
    async with relaying(GOOD, clock=clock, access=access(jwks)) as (_, gp):
        zoe = token(clock.wall(), "zoe", email="zoe@corp")
        again = token(clock.wall() + 60, "zoe", email="other@corp")
        yan = token(clock.wall(), "yan", email="yan@corp")
        answers = [
            await gp.ask(headers=by(text)).answer() for text in (zoe, again, zoe, yan, KEY, KEY, KEY, again, yan)
        ]
        await until(lambda: not gp.state.in_flight.busy)
        rows = {row.of: row.used for row in (await limits_of(gp.state)).limits}
        metrics = gp.state.metrics.exposition().decode()
        row, (listed, *_) = callers(gp.state).callers[0], (await requests_listing(gp.state, {})).requests
        (story,) = await stories(gp.state, answers[0].headers["x-request-id"], bodies=True)
        by_name = await requests_listing(gp.state, {"caller": "people", "text": "zoe@corp"})
    assert [one.status for one in answers] == [200, 200, 429, 200, 200, 200, 429, 429, 200]
    assert "This caller of 'people' has used its limit of 2 requests per minute" in answers[2].error["message"]
    assert "(access.jwt[].callers[].limits.requests.minute)" in answers[2].error["message"]
    assert "(access.keys[].limits.requests.minute)" in answers[6].error["message"]
    assert rows == {"caller/people": 2, "jwt/people": 2}
    assert (row.name, row.requests, row.errors, row.max_concurrent) == ("people", 9, 3, None)
    assert (listed.caller, listed.user, story.user) == ("people", "yan@corp", "zoe@corp")
    assert len(by_name.requests) == 2
    lines = [vars(one)["fields"] for one in caplog.records if one.name == ACCESS_LOG.name]
    assert {(one.get("auth"), one.get("user"), "key_id" in one) for one in lines} == {
        *(("jwt", f"{name}@corp", False) for name in ("zoe", "other", "yan")),
        (None, None, True),
    }
    assert 'gatepass_limit_hits_total{kind="jwt",limit="requests.minute",name="people"} 2' in metrics
    assert "@corp" not in metrics
    told = f"{metrics}{rows}{story}{[one.__dict__ for one in caplog.records]}{lines}"
    assert not [text for text in (SUBJECT, zoe, again, yan) if text in told]


async def test_the_log_says_whose_valid_token_was_refused(jwks, caplog):
    caplog.set_level(logging.DEBUG)
    clock = DrivenClock()
    rows = {
        "jwt": [issuer(jwks, {"role": "viewer"})],
        "keys": [{"name": "page", "role": "viewer", "hash": hash_key(KEY)}],
    }
    async with relaying(GOOD, clock=clock, access=rows) as (_, gp):
        none, viewer = token(clock.wall(), "zoe", roles=[]), token(clock.wall(), "yan", email="yan@corp")
        answers = [await gp.ask(headers=by(text)).answer() for text in (none, viewer, KEY)]
        wrong = await gp.ask(headers=by("gp-wrong")).answer()
        await until(lambda: not gp.state.in_flight.busy)
        listed = (await requests_listing(gp.state, {"caller": "people"})).requests
        metrics = gp.state.metrics.exposition().decode()
    assert [one.error["code"] for one in answers] == ["no_caller_row", "role_not_allowed", "role_not_allowed"]
    lines = [vars(one)["fields"] for one in caplog.records if one.name == ACCESS_LOG.name]
    assert [(one.get("auth"), one.get("caller"), one.get("user"), one.get("key_id")) for one in lines] == [
        ("jwt", None, None, None),
        ("jwt", "people", "yan@corp", None),
        (None, "page", None, hash_key(KEY)[7:15]),
        (None, None, None, None),
    ]
    assert (wrong.error["code"], f"The token of {ISSUER} meets no row" in lines[0]["reason"]) == (
        "invalid_api_key",
        True,
    )
    assert [(one.caller, one.user) for one in listed] == [("people", "yan@corp")]
    assert re.search(r'gatepass_requests_total\{caller="people",.* 1', metrics)
    assert re.search(r'gatepass_requests_total\{caller="page",.* 1', metrics)
    assert SUBJECT not in f"{metrics}{lines}{listed}"


async def test_what_was_used_stays_after_a_reload_that_moves_the_row(jwks, serve: Serve):
    once = {"limits": {"requests": {"minute": 1}}}
    first = {"contains": "batch", "name": "batch"}
    async with Scripted(answer=lambda _: GOOD) as upstream:
        blocks: dict[str, Any] = {"upstreams": {"chat": {"base_url": f"{upstream.url}/v1"}}}
        async with serve(**blocks, access={"jwt": [issuer(jwks, once)]}) as gatepass:
            clock_s = gatepass.served.state.clock.wall()

            async def status(subject: str) -> int:
                answer: Answer = await gatepass.served.ask(headers=by(token(clock_s, subject))).answer()
                return answer.status

            assert [await status(name) for name in ("zoe", "zoe", "yan")] == [200, 429, 200]
            moved = {"jwt": [issuer(jwks, first, {"limits": {"requests": {"minute": 2}}})]}
            assert (await gatepass.reload(**blocks, access=moved)).outcome == "reloaded"
            assert [await status(name) for name in ("zoe", "zoe", "yan", "yan")] == [200, 429, 200, 429]


async def test_rows_of_one_name_may_have_different_limits(jwks):
    """A caller that has a token for each of both rows counts in each."""
    many = {"contains": "power", "limits": {"requests": {"minute": 3}}}
    clock = DrivenClock()
    blocks = {"jwt": [issuer(jwks, many, {"limits": {"requests": {"minute": 1}}})]}
    async with relaying(GOOD, clock=clock, access=blocks) as (_, gp):
        plain = token(clock.wall(), "zoe")
        power = token(clock.wall(), "zoe", roles=["user", "power"])
        texts = [plain, power, plain, power, plain, power, power]
        found = [(await gp.ask(headers=by(text)).answer()).status for text in texts]
        rows = {row.of: row.used for row in (await limits_of(gp.state)).limits}
    assert found == [200, 200, 429, 200, 429, 200, 429]
    assert rows == {"jwt/people": 3, "jwt/people#2": 1}


async def test_a_session_of_a_server_is_of_one_identity_whatever_its_token(jwks):
    def answer(request: Received) -> Dialogue:
        is_first = json.loads(request.body)["method"] == "initialize"
        return [Send(reply(RESULT, mcp_session_id="s-1") if is_first else reply(RESULT))]

    clock = DrivenClock()
    for keys in ([], [{"name": "people", "hash": hash_key(KEY)}]):
        blocks = {"keys": keys, "jwt": [issuer(jwks, {})]}
        async with Scripted(answer=answer) as upstream, gateway(**servers(upstream), access=blocks, clock=clock) as gp:

            async def status(text: str, message: Any = LIST, gp: Gateway = gp, **headers: str) -> int:
                found: Answer = await post(gp, message, authorization=f"Bearer {text}", **headers).answer()
                return found.status

            zoe, yan = token(clock.wall(), "zoe"), token(clock.wall(), "yan")
            assert await status(yan, mcp_session_id="s-0") == 404  # after a restart too it may be another's
            assert await status(zoe, INITIALIZE) == 200
            assert await status(zoe, mcp_session_id="s-1") == 200
            assert await status(token(clock.wall() + 60, "zoe"), mcp_session_id="s-1") == 200
            assert await status(yan, mcp_session_id="s-1") == 404
            if keys:
                assert await status(KEY, mcp_session_id="s-1") == 404


async def test_a_new_token_keeps_the_target_and_the_learned_rules_of_its_caller(jwks):
    def answer(request: Received) -> Dialogue:
        if b"temperature" not in request.body:
            return GOOD
        error = {"error": {"message": "Unsupported parameter: 'temperature'", "param": "temperature"}}
        return [Send(reply(error, 400))]

    clock, names = DrivenClock(), [f"person-{number}" for number in range(8)]
    async with Scripted(answer=answer) as a, Scripted(answer=answer) as b:
        upstreams = {name: {"base_url": f"{one.url}/v1"} for name, one in (("a", a), ("b", b))}
        models = {"m": {"policy": "least_in_flight", "targets": [{"upstream": name} for name in upstreams]}}
        blocks: dict[str, Any] = {"upstreams": upstreams, "models": models, "access": {"jwt": [issuer(jwks, {})]}}
        async with gateway(clock=clock, **blocks) as gp:

            async def received(name: str, later_s: float) -> tuple[int, int]:
                """How many requests each upstream received for one of this caller, with a token of its own."""
                before = len(a.received), len(b.received)
                text = token(clock.wall() + later_s, name)
                assert (await gp.ask({**HELLO, "temperature": 1}, headers=by(text)).answer()).status == 200
                return len(a.received) - before[0], len(b.received) - before[1]

            first = [await received(name, 0.0) for name in names]
            later = [await received(name, 60.0) for name in names]
    assert set(first) == {(2, 0), (0, 2)}
    assert later == [(one // 2, other // 2) for one, other in first]


async def test_requests_of_all_identities_are_in_flight_for_the_row_and_its_name_may_be_captured(jwks):
    go_on, clock = asyncio.Event(), DrivenClock()
    groups = {"groups": {"all": {"limits": {"max_concurrent": 9}}}}
    own: Any = {"group": "all", "limits": {"requests": {"month": 4}}}
    async with relaying([Wait(go_on), *GOOD], clock=clock, access=access(jwks, **own) | groups) as (upstream, gp):
        async with gp.ask(headers=by(token(clock.wall(), "zoe"))), gp.ask(headers=by(token(clock.wall(), "yan"))):
            await until(lambda: len(upstream.received) == 2)
            (row,) = callers(gp.state).callers
            assert (row.name, row.in_flight) == ("people", 2)
            shown = gp.state.metrics.exposition().decode()
            go_on.set()
        start_capture(gp.state, CaptureSettings(caller="people"))
        with pytest.raises(InvalidRequest):
            start_capture(gp.state, CaptureSettings(caller=f"{SUBJECT}-zoe"))
    assert [line for line in shown.splitlines() if line.startswith("gatepass_limit_left")] == [
        'gatepass_limit_left_ratio{kind="jwt",limit="requests.month",name="people"} 0.75'
    ]
    assert re.search(r'gatepass_requests_in_flight\{caller="people",group="all",.*\} 2', shown)


async def test_a_reload_may_go_from_keys_to_tokens_alone_and_not_to_neither(jwks, serve: Serve, logged_errors):
    async with Scripted(answer=lambda _: GOOD) as upstream:
        blocks: dict[str, Any] = {"upstreams": {"chat": {"base_url": f"{upstream.url}/v1"}}}
        keys, alone = {"keys": [{"name": "app", "hash": hash_key(KEY)}]}, {"jwt": [issuer(jwks, {})]}
        async with serve(**blocks, access=keys) as gatepass:
            assert "jwt" not in msgspec.to_builtins(status_of(gatepass.served.state))
            assert (await gatepass.reload(**blocks, access=alone)).outcome == "reloaded"
            state = gatepass.served.server.endpoint.state
            text = token(state.clock.wall(), "zoe")
            assert (await gatepass.served.ask(headers=by(text)).answer()).status == 200
            assert (await gatepass.served.ask(headers=by(KEY)).answer()).status == 401
            (shown,) = msgspec.to_builtins(status_of(state))["jwt"]
            assert (shown["issuer"], shown["keys"], shown["fault"], shown["age_s"] is None) == (ISSUER, 1, None, False)
            assert await gatepass.reload(**blocks) == ReloadResult("refused", problems=(KEYS_LOST,))
            assert (await gatepass.served.ask().answer()).status == 401
            assert (await gatepass.reload(**blocks, access=keys)).outcome == "reloaded"
            assert (await gatepass.served.ask(headers=by(text)).answer()).status == 401
    logged_errors.clear()  # those of the refused reload, which the result has


async def test_a_reload_fetches_the_keys_again_so_that_a_withdrawn_one_ends(jwks, serve: Serve):
    async with Scripted(answer=lambda _: GOOD) as upstream:
        blocks: dict[str, Any] = {"upstreams": {"chat": {"base_url": f"{upstream.url}/v1"}}}
        async with serve(**blocks, access={"jwt": [issuer(jwks, {})]}) as gatepass:
            state = gatepass.served.server.endpoint.state
            text, before = token(state.clock.wall(), "zoe"), state.key_sets[0].keys
            assert (await gatepass.served.ask(headers=by(text)).answer()).status == 200
            await asyncio.to_thread(Path(jwks).write_bytes, key_set(SigningKey("k2", "EdDSA")))
            assert await gatepass.reload() == ReloadResult("unchanged")
            await until(lambda: state.key_sets[0].keys is not before)
            assert (await gatepass.served.ask(headers=by(text)).answer()).status == 401


async def test_a_reload_notices_the_files_of_an_issuer_and_masks_its_proxy_password(tmp_path, jwks, serve: Serve):
    first, second = trustme.CA(), trustme.CA()
    ca, password = tmp_path / "ca.pem", tmp_path / "proxy"
    first.cert_pem.write_to_path(str(ca))
    password.write_text("gate:first-password")
    network = {"ca_file": str(ca), "proxy": "http://127.0.0.1:9", "proxy_auth": f"${{file:{password}}}"}
    fetched = {**issuer("", {}), "jwks": "https://127.0.0.1:9/keys", "network": network}
    del fetched["jwks"]
    async with Scripted(answer=lambda _: GOOD) as upstream:
        blocks: dict[str, Any] = {"upstreams": {"chat": {"base_url": f"{upstream.url}/v1"}}}
        async with serve(**blocks, access={"jwt": [fetched]}) as gatepass:
            assert await gatepass.reload() == ReloadResult("unchanged")
            second.cert_pem.write_to_path(str(ca))
            assert await gatepass.reload() == ReloadResult("reloaded", ("access",))
            password.write_text("gate:second-password")
            assert await gatepass.reload() == ReloadResult("reloaded", ("access",))
            mask = gatepass.served.state.redactor.mask
            assert "password" not in mask("first-password second-password")
            reloader = gatepass.served.server.reloader
            assert isinstance(reloader, Reloader)
            assert set(_readings(reloader.loaded)[0]) >= {str(ca), str(password)}


async def test_a_span_names_the_row_alone(jwks):
    clock = DrivenClock()
    async with Collector() as collector, Scripted(answer=lambda _: GOOD) as upstream:
        blocks: dict[str, Any] = {"tracing": collector.block(), "access": {"jwt": [issuer(jwks, {})]}}
        async with gateway(upstream=upstream.url, clock=clock, **blocks) as gp:
            answer = await gp.ask(headers=by(token(clock.wall(), "zoe", email="zoe@corp"))).answer()
            assert answer.status == 200
    sent = b"".join(one.body for one in collector.received)
    assert b"people" in sent
    assert b"zoe" not in sent


async def test_a_refusal_for_a_token_names_its_row_and_not_a_key_of_the_same_name(jwks):
    tools: dict[str, Any] = {"mcp": {"tools": ["find"]}}
    rows = issuer(jwks, {"contains": "closed", "name": "closed", "models": ["m"]}, tools)
    access = {"keys": [{"name": "people", "hash": hash_key(KEY), **tools}], "jwt": [rows]}
    call = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "drop"}}
    clock = DrivenClock()
    async with Scripted([]) as upstream, gateway(**servers(upstream), access=access, clock=clock) as gp:
        told, lines = list[str](), list[str]()
        for text in (KEY, token(clock.wall(), "zoe"), token(clock.wall(), "yan", roles=["closed"])):
            got = await post(gp, call, authorization=f"Bearer {text}").answer()
            told.append(got.json()["error"]["message"])
            await until(lambda: not gp.state.in_flight.busy)
            (story,) = await stories(gp.state, got.headers["x-request-id"], bodies=True)
            assert story.error is not None
            shown = next(line for line in story_lines(story, clock.wall()) if "people" in line or "closed" in line)
            lines.append(f"{shown}\n{story.error.action}")
            summary = (await requests_listing(gp.state, {})).requests[0]
            lines.append(summary_line(summary))
    setting, row = "access.jwt[].callers[].mcp", "access.jwt[].callers[]"
    assert told == [
        "This key may not call the tool 'drop'. Use another key, or add the tool to access.keys[].mcp.",
        f"This caller may not call the tool 'drop'. Add the tool to {setting} of the row 'people'.",
        f"The row 'closed' of {row} may not use the MCP server 'tools', because it has `models` and no `mcp`.",
    ]
    assert [("(JWT)" in one, "access.keys" in one) for one in lines] == [
        *((False, True), (False, False)),
        *((True, False), (True, False)),
        *((True, False), (True, False)),
    ]
    assert upstream.received == []
