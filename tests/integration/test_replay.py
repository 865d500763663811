"""`gatepass replay`: a captured request served again on the usual way, with and without a rule."""

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gatepass.auth.api_keys import hash_key
from gatepass.cli import main
from gatepass.cli.control import request
from gatepass.errors import InvalidRequest
from gatepass.observability.capture import CaptureSettings
from gatepass.proxy.app_state import AppState
from gatepass.server.pages import own_part
from gatepass.server.replay import replay, replay_id
from tests.integration.answers import COMPLETION
from tests.integration.gateway import CHAT, HELLO, JSON, Gateway, gateway
from tests.integration.scripted import Received, Scripted, Send, reply
from tests.integration.test_capture import asked
from tests.integration.workers.test_supervisor import started
from tests.waiting import until

TOKEN = "s3cret-token-of-the-upstream-0123456789"


def echo(received: Received) -> list[Send]:
    """Reply with the request."""
    said = {"role": "assistant", "content": received.body.decode()}
    return [Send(reply({"choices": [{"index": 0, "message": said, "finish_reason": "stop"}]}))]


def sent_in(result: dict[str, Any]) -> Any:
    return json.loads(json.loads(result["body"])["choices"][0]["message"]["content"])


async def captured(gp: Gateway, body: Any = HELLO, path: str = CHAT, **headers: str) -> str:
    answer = await gp.ask(body, path, headers={**JSON, **headers}).answer()
    await until(lambda: gp.state.in_flight.busy == 0)
    return answer.headers["x-request-id"]


async def again(state: AppState, request_id: str, *without: str) -> dict[str, Any]:
    async def collect(target: str) -> dict[str, bytes]:
        part = await own_part(target, state)
        return {"": part} if part else {}

    return await replay(collect, json.dumps({"id": request_id, "without": without}).encode(), replay_id())


async def test_the_upstream_receives_the_same_request_and_the_log_and_the_story_name_it(caplog):
    caplog.set_level(logging.INFO, "gatepass.access")
    async with Scripted(answer=echo) as upstream, gateway(upstream=upstream.url) as gp:
        gp.state.capture.start(CaptureSettings(caller="local"))
        first = await captured(gp, {**HELLO, "user": "ü"})
        result = await again(gp.state, first)
        (story,) = json.loads(await own_part(f"/story?id={result['id']}", gp.state))
        one, other = upstream.received
        assert one.body == other.body
    assert (result["status"], result["ended"], result["replay_of"], result["id"] != first) == (200, True, first, True)
    assert sent_in(result) == {**HELLO, "user": "ü"}
    assert (story["replay_of"], story["replayed_by"], story["caller"], story["status"]) == (
        first,
        "local",
        "local",
        200,
    )
    lines = [record.__dict__["fields"] for record in caplog.records if record.msg == "request"]
    assert [line.get("replay_of") for line in lines] == [None, first]


@pytest.mark.parametrize("member", ["drop_params", "seed"])
async def test_a_change_is_left_out_for_this_one_request(member):
    models = {"m": {"upstream": "chat", "rules": {"drop": ["seed"], "default": {"top_p": 1}}}}
    async with Scripted(answer=echo) as upstream, gateway(upstream=upstream.url, models=models) as gp:
        gp.state.capture.start(CaptureSettings())
        first = await captured(gp, {**HELLO, member: 1})
        usual, result = await again(gp.state, first), await again(gp.state, first, f"drop={member}")
        last = await again(gp.state, first)
    assert member not in sent_in(usual)
    assert member in sent_in(result)
    assert "top_p" in sent_in(result)
    assert sent_in(last) == sent_in(usual)
    assert f"drop={member}" in usual["adapted"]


async def test_a_learned_rule_is_left_out_and_is_not_learned_again():
    def answer(received: Received) -> list[Send]:
        if b"temperature" in received.body:
            error = {"message": "Unsupported parameter: 'temperature'", "param": "temperature"}
            return [Send(reply({"error": error}, 400))]
        return [Send(reply(COMPLETION))]

    async with Scripted(answer=answer) as upstream, gateway(upstream=upstream.url) as gp:
        gp.state.capture.start(CaptureSettings())
        first = await captured(gp, {**HELLO, "temperature": 1})
        (rule,) = gp.state.learned_rules()
        usual, result = await again(gp.state, first), await again(gp.state, first, "drop=temperature")
        sent = len(upstream.received)
        assert [(one.rule, one.state) for one in gp.state.learned_rules()] == [(rule.rule, "learned")]
    assert (usual["status"], usual["adapted"][0]) == (200, "drop=temperature")
    assert (result["status"], result["adapted"]) == (400, [])
    assert "Unsupported parameter" in result["body"]
    assert sent == 4


async def test_it_runs_with_the_profile_of_its_path_or_its_key_as_the_admin():
    key = "sk-client-key-0123456789"
    profiles = {"ours": {"drop": ["user"]}, "theirs": {"drop": ["seed"]}}
    access = {
        "keys": [
            {"name": "k", "hash": hash_key(key), "profile": "theirs", "models": ["m"], "limits": {"max_concurrent": 1}}
        ]
    }
    async with (
        Scripted(answer=echo) as upstream,
        gateway(upstream=upstream.url, profiles=profiles, access=access) as gp,
    ):
        gp.state.capture.start(CaptureSettings(caller="k"))
        body, bearer = {**HELLO, "user": "u", "seed": 1}, f"Bearer {key}"
        by_key = await captured(gp, body, authorization=bearer)
        by_path = await captured(gp, body, "/for/ours/v1/chat/completions", authorization=bearer)
        of_key, of_path = await again(gp.state, by_key), await again(gp.state, by_path)
    assert sent_in(of_key) == {**HELLO, "user": "u"}
    assert sent_in(of_path) == {**HELLO, "seed": 1}


async def test_no_secret_is_shown_in_the_response():
    def quoting(received: Received) -> list[Send]:
        said = {"role": "assistant", "content": f"{received.header('authorization')} {received.body.decode()}"}
        return [Send(reply({"choices": [{"index": 0, "message": said, "finish_reason": "stop"}]}))]

    credentials = {"fixed": {"type": "static", "token": TOKEN}}
    async with Scripted(answer=quoting) as upstream:
        upstreams = {"chat": {"base_url": f"{upstream.url}/v1", "credential": "fixed"}}
        async with gateway(upstreams=upstreams, credentials=credentials) as gp:
            gp.state.capture.start(CaptureSettings())
            first = await captured(gp, {**HELLO, "user": TOKEN})
            result = await again(gp.state, first)
            (story,) = json.loads(await own_part(f"/story?id={result['id']}", gp.state))
            assert TOKEN.encode() in upstream.received[1].body
    assert result["status"] == 200
    assert "***" in result["body"]
    assert TOKEN not in json.dumps([result, story])


@pytest.mark.parametrize("name", ["drop=seed", ""])
async def test_a_name_that_leaves_nothing_out_is_an_error_with_those_that_do(name: str):
    models = {"m": {"upstream": "chat", "rules": {"drop": ["seed"], "default": {"top_p": 1}}}}
    async with Scripted(answer=echo) as upstream, gateway(upstream=upstream.url, models=models) as gp:
        gp.state.capture.start(CaptureSettings())
        first = await captured(gp, {**HELLO, "drop_params": True})
        with pytest.raises(InvalidRequest) as raised:
            await again(gp.state, first, "drop=drop_params", name)
        assert len(upstream.received) == 1
        kept = await again(gp.state, first, "drop=drop_params", "default=top_p")
        (story,) = json.loads(await own_part(f"/story?id={kept['id']}", gp.state))
    assert f"it has no change {name!r}. You can leave out drop=drop_params, default=top_p." in raised.value.message
    assert story["replayed_without"] == ["drop=drop_params", "default=top_p"]


async def test_what_cannot_be_replayed_is_an_error_with_its_reason():
    async with Scripted([Send(reply(COMPLETION))]) as upstream, gateway(upstream=upstream.url) as gp:
        with pytest.raises(InvalidRequest, match="'unknown' is not captured"):
            await again(gp.state, "unknown")
        gp.state.capture.start(CaptureSettings(limit_bytes=64 * 1024))
        large = await captured(gp, {**HELLO, "user": "x" * 100_000})
        with pytest.raises(InvalidRequest, match="too large and is cut"):
            await again(gp.state, large)
        assert gp.state.in_flight.busy == 0


@pytest.mark.parametrize("workers", [1, 2])
async def test_the_worker_that_holds_the_request_serves_it_once(tmp_path: Path, workers: int):
    path = tmp_path / "own" / "control.sock"
    async with Scripted(answer=echo) as upstream:
        upstreams = {"chat": {"base_url": f"{upstream.url}/v1"}}
        configuration = {"server": {"control_socket": str(path), "drain_timeout_s": 1}, "upstreams": upstreams}
        async with started(tmp_path, configuration, workers) as running:
            port = await running.port
            if workers == 2:
                await until(lambda: len(json.loads(request("GET", "/status", str(path))).get("workers", ())) == 2)
            assert (await command(path, "replay", "unknown"))[0] == 1
            assert (await command(path, "capture", "--for", "5m"))[0] == 0
            ids = await asked(port, 8)
            for number, each in enumerate(ids):
                code, text = await command(path, "replay", each)
                assert (code, "status 200" in text) == (0, True), text
                assert len(upstream.received) == 9 + number
            new_id = text.partition("Sent again as ")[2].partition(":")[0]
            (story,) = json.loads(request("GET", f"/requests/{new_id}", str(path)))["stories"]
            assert (story["replay_of"], story["status"]) == (ids[-1], 200)
            await running.logged(f'"event":"request".*"replay_of":"{ids[-1]}"')


async def command(path: Path, *arguments: str) -> tuple[int, str]:
    result = await asyncio.to_thread(CliRunner().invoke, main, [*arguments, "--socket", str(path)])
    return result.exit_code, result.output
