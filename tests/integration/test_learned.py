"""Learned rules are shown on /learned, by `gatepass learned`, in the model list, and for all workers together."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import openai
import pytest
from click.testing import CliRunner, Result

from gatepass.auth.api_keys import hash_key
from gatepass.cli import main
from gatepass.config.yaml_file import parse_yaml
from tests.integration.answers import COMPLETION
from tests.integration.gateway import HELLO, Gateway, gateway
from tests.integration.scripted import Dialogue, Received, Scripted, Send, reply
from tests.integration.workers.test_supervisor import ask as ask_port
from tests.integration.workers.test_supervisor import started
from tests.unit.clock import DrivenClock

KEY = "gp-a-key-that-opens-the-door"
LOCKED = {"keys": [{"name": "ragflow", "hash": hash_key(KEY), "role": "admin"}]}
STREAMED = {**HELLO, "model": "mini", "stream": True}
SAID = "Unsupported value: 'stream' does not support true with this model."
REFUSAL = {"error": {"message": SAID, "type": "invalid_request_error", "param": "stream", "code": "unsupported_value"}}
MODELS = {
    "mini": {"upstream": "chat", "name": "o3-mini", "capabilities": {"vision": False, "context_length": 200_000}},
    "plain": {"upstream": "chat"},
}


def no_stream(request: Received) -> Dialogue:
    if request.target.endswith("/models"):
        return [Send(reply({"object": "list", "data": [{"id": "o3-mini"}, {"id": "gpt-5", "object": "model"}]}))]
    asked = json.loads(request.body)
    return [Send(reply(REFUSAL, 400) if asked.get("stream") else reply(COMPLETION))]


async def learn(gp: Gateway, **headers: str) -> None:
    """One request that teaches."""
    answer = await gp.ask(STREAMED, headers={"content-type": "application/json", **headers}).answer()
    assert (answer.status, answer.headers["x-gatepass-adapted"]) == (200, "stream=synth")


async def page(gp: Gateway, path: str = "/learned", **headers: str) -> Any:
    return await gp.ask(None, path, method="GET", headers=headers).answer()


async def test_what_was_learned_is_listed_with_its_evidence():
    clock = DrivenClock()
    async with (
        Scripted(answer=no_stream) as upstream,
        gateway(upstream=upstream.url, clock=clock, models=MODELS) as gp,
    ):
        assert (await page(gp)).json() == {"rules": []}
        await learn(gp)
        await clock.advance(90)
        await learn(gp)
        answer = await page(gp)
    assert answer.json() == {
        "rules": [
            {
                "upstream": "chat",
                "model": "o3-mini",
                "operation": "chat",
                "credential": "",
                "adapted": "stream=synth",
                "state": "learned",
                "evidence": SAID,
                "age_s": 90,
                "expires_in_s": 3510,
                "uses": 2,
            }
        ]
    }


async def test_a_key_sees_only_the_learned_rules_of_models_that_it_may_use():
    keys = [
        {"name": "one", "hash": hash_key(KEY), "role": "admin", "models": ["mini"]},
        {"name": "two", "hash": hash_key(f"{KEY}-2"), "role": "viewer", "models": ["plain"]},
    ]
    async with (
        Scripted(answer=no_stream) as upstream,
        gateway(upstream=upstream.url, models=MODELS, access={"keys": keys}) as gp,
    ):
        await learn(gp, authorization=f"Bearer {KEY}")
        own = await page(gp, authorization=f"Bearer {KEY}")
        others = await page(gp, authorization=f"Bearer {KEY}-2")
        pins = await page(gp, "/learned?as=config", authorization=f"Bearer {KEY}-2")
    assert [row["model"] for row in own.json()["rules"]] == ["o3-mini"]
    assert others.json() == {"rules": []}
    assert pins.body.decode() == "# Nothing has been learned.\n"


async def test_the_page_pins_by_the_public_names():
    async with Scripted(answer=no_stream) as upstream, gateway(upstream=upstream.url, models=MODELS) as gp:
        await learn(gp)
        answer = await page(gp, "/learned?as=config")
    assert answer.headers["content-type"] == "application/yaml"
    assert parse_yaml("pins", answer.body.decode()).tree == {"models": {"mini": {"stream": "emulate"}}}


async def test_it_wants_a_key_where_there_are_any_and_this_machine_where_there_are_none():
    async with Scripted(answer=no_stream) as upstream:
        async with gateway(upstream=upstream.url, access={**LOCKED, "metrics_open": True}) as gp:
            refused, shown = await page(gp), await page(gp, authorization=f"Bearer {KEY}")
        async with gateway(upstream=upstream.url) as gp:
            foreign = await page(gp, host="gatepass.corp.example")
    assert (refused.status, refused.error["code"], shown.status) == (401, "invalid_api_key", 200)
    assert (foreign.status, foreign.error["code"]) == (403, "forbidden_host")


# --- the model list -----------------------------------------------------------------------------------------------


async def test_the_model_list_marks_what_is_declared_and_learned():
    clock = DrivenClock()
    async with (
        Scripted(answer=no_stream) as upstream,
        gateway(upstream=upstream.url, clock=clock, models=MODELS) as gp,
    ):
        await learn(gp)
        await clock.advance(12)
        mini, plain = (await page(gp, "/v1/models")).json()["data"]
        one = (await page(gp, "/v1/models/mini")).json()
    assert plain == {"id": "plain", "object": "model", "created": 0, "owned_by": "gatepass"}
    assert mini == one
    assert (mini["context_length"], mini["max_model_len"]) == (200_000, 200_000)
    capabilities = mini["gatepass"]["capabilities"]
    assert capabilities["vision"] == {"value": False, "source": "declared"}
    assert capabilities["stream"] == {"value": "emulate", "source": "learned", "age_s": 12, "evidence": SAID}
    assert set(capabilities) == {"stream", "vision", "context_length"}


async def test_models_of_an_upstreams_own_list_are_marked_by_their_glob_and_their_learned_rules():
    models = {"gpt-*": {"upstream": "chat", "capabilities": {"tools": True}}, "*": {"upstream": "chat"}}
    async with Scripted(answer=no_stream) as upstream, gateway(upstream=upstream.url, models=models) as gp:
        before = {one["id"]: one for one in (await page(gp, "/v1/models")).json()["data"]}
        await gp.ask({**STREAMED, "model": "o3-mini"}).answer()
        after = {one["id"]: one for one in (await page(gp, "/v1/models")).json()["data"]}
    assert before["o3-mini"] == {"id": "o3-mini", "object": "model", "created": 0, "owned_by": "upstream"}
    assert after["o3-mini"]["gatepass"]["capabilities"]["stream"]["value"] == "emulate"
    assert after["gpt-5"] == before["gpt-5"]
    assert after["gpt-5"]["gatepass"]["capabilities"]["tools"] == {"value": True, "source": "declared"}
    assert after["gpt-5"]["object"] == "model"


async def test_a_caller_sees_marks_of_the_models_it_may_use_alone():
    keys = [{"name": "one", "hash": hash_key(KEY), "models": ["plain"]}]
    async with (
        Scripted(answer=no_stream) as upstream,
        gateway(upstream=upstream.url, models=MODELS, access={"keys": keys}) as gp,
    ):
        answer = await page(gp, "/v1/models", authorization=f"Bearer {KEY}")
        hidden = await page(gp, "/v1/models/mini", authorization=f"Bearer {KEY}")
    plain = {"id": "plain", "object": "model", "created": 0, "owned_by": "gatepass"}
    assert answer.json()["data"] == [plain]
    assert hidden.status == 404


async def test_the_openai_package_reads_the_marked_list():
    async with Scripted(answer=no_stream) as upstream, gateway(upstream=upstream.url, models=MODELS) as gp:
        await learn(gp)
        async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{gp.port}/v1", api_key="none") as client:
            models = {model.id: model async for model in client.models.list()}
            mini = await client.models.retrieve("mini")
    assert (models["mini"].object, models["mini"].owned_by, mini) == ("model", "gatepass", models["mini"])
    assert (mini.model_extra or {})["gatepass"]["capabilities"]["stream"]["value"] == "emulate"


# --- the command --------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    for name in ("CONFIG", "HOST", "PORT", "KEY", "KEYS"):
        monkeypatch.delenv(f"GATEPASS_{name}", raising=False)


async def called(*arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, main, ["learned", *arguments])


def written(folder: Path, gp: Gateway, **blocks: Any) -> str:
    """The file of that gatepass, as it lies on its machine: the secrets in it are not there for this shell."""
    upstreams = {"chat": {"base_url": "https://llm.example/v1", "headers": {"x-secret": "${NOT_SET_IN_THIS_SHELL}"}}}
    file = folder / "gatepass.json"
    file.write_text(json.dumps({"server": {"port": gp.port}, "upstreams": upstreams, **blocks}))
    return str(file)


async def test_the_command_lists_it_for_people_for_programs_and_as_configuration(tmp_path):
    async with Scripted(answer=no_stream) as upstream, gateway(upstream=upstream.url, models=MODELS) as gp:
        file = written(tmp_path, gp)
        nothing = await called("--config", file)
        await learn(gp)
        people, programs, pins = [await called("--config", file, *more) for more in ((), ("--json",), ("--as-config",))]
        by_url = await called("--url", f"http://127.0.0.1:{gp.port}/v1/", "--as-config")
    assert (nothing.exit_code, nothing.output) == (0, "Nothing has been learned.\n")
    head, line, evidence = people.output.splitlines()
    assert (people.exit_code, head.split()) == (0, ["MODEL", "OPERATION", "ADAPTED", "STATE", "AGE", "LEFT", "USES"])
    assert re.fullmatch(r"chat/o3-mini  chat       stream=synth  learned  \d s  (59 min|1 h)\s+1", line)
    assert evidence == f"    {SAID}"
    assert json.loads(programs.output)[0]["evidence"] == SAID
    assert pins.output == by_url.output
    assert parse_yaml("pins", pins.output).tree == {"models": {"mini": {"stream": "emulate"}}}


async def test_the_command_shows_a_key_that_the_shell_or_the_configuration_has(tmp_path, monkeypatch):
    async with Scripted(answer=no_stream) as upstream, gateway(upstream=upstream.url, access=LOCKED) as gp:
        by_hash = written(tmp_path, gp, access=LOCKED)
        without = await called("--config", by_hash)
        monkeypatch.setenv("GATEPASS_KEY", KEY)
        default = await called("--config", by_hash)
        monkeypatch.delenv("GATEPASS_KEY")
        monkeypatch.setenv("OTHER", KEY)
        named = await called("--config", by_hash, "--key-env", "OTHER")
        keys = [
            {"name": "x", "key": "${NOT_SET}", "role": "admin"},
            {"name": "y", "hash": "h"},
            "odd",
            {"name": "z", "key": "${OTHER}", "role": "viewer"},
        ]
        referred = await called("--config", written(tmp_path, gp, access={"keys": keys}))
        monkeypatch.setenv("GATEPASS_KEYS", f"{KEY},another-one")
        of_environment = await called("--url", f"http://localhost:{gp.port}")
    assert without.exit_code == 1
    assert "answered 401 to GET /learned. The request has no API key." in without.stderr
    assert "Set the environment variable GATEPASS_KEY to one of its keys." in without.stderr
    assert [result.exit_code for result in (default, named, referred, of_environment)] == [0] * 4
    assert KEY not in without.output


async def test_the_command_goes_by_the_environment_as_serve_does(monkeypatch):
    async with Scripted(answer=no_stream) as upstream, gateway(upstream=upstream.url) as gp:
        monkeypatch.setenv("GATEPASS_HOST", "0.0.0.0")
        monkeypatch.setenv("GATEPASS_PORT", str(gp.port))
        assert (await called()).exit_code == 0


async def test_what_is_no_gatepass_is_reported():
    answers: list[Dialogue] = [
        [Send(reply({"detail": "Not Found"}, 404))],
        [Send(reply(b"<html>", content_type="text/html"))],
        [Send(reply({"rules": [3]}))],
        [Send(b"rubbish\r\n\r\n")],
    ]
    async with Scripted(*answers) as other:
        results = [await called("--url", other.url) for _ in answers]
    results.append(await called("--url", other.url))
    assert [result.exit_code for result in results] == [1] * 5
    assert "answered 404 to GET /learned. Is it a gatepass, and is the URL its root?" in results[0].stderr
    assert "did not return a list of learned rules" in results[1].stderr
    assert "did not return a list of learned rules" in results[2].stderr
    assert "no answer from" in results[3].stderr
    assert "no answer from" in results[4].stderr
    assert not any("Traceback" in result.output for result in results)


# --- between processes --------------------------------------------------------------------------------------------


async def test_what_each_worker_learned_is_listed_together(tmp_path):
    async with Scripted(answer=no_stream) as upstream:
        configuration = {"upstreams": {"chat": {"base_url": f"{upstream.url}/v1"}}, "models": MODELS}
        async with started(tmp_path, configuration) as running:
            port = await running.port
            for _ in range(21):
                assert (await ask_port(port, body=json.dumps(STREAMED).encode())).status == 200
            (row,) = (await ask_port(port, "/learned", None)).json()["rules"]
            file = tmp_path / "asking.json"
            file.write_text(json.dumps({"server": {"port": port}}))
            shown = await called("--config", str(file), "--json")
    asked = [json.loads(request.body).get("stream", False) for request in upstream.received]
    assert asked.count(True) in (1, 2), "each worker is refused once"
    assert (row["adapted"], row["uses"]) == ("stream=synth", 21)
    assert [row["uses"] for row in json.loads(shown.output)] == [21]
