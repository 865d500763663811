"""Learned rules are shown on /learned, by `gatepass learned` and in the model list."""

import asyncio
import json
import re
from typing import Any

from click.testing import CliRunner, Result

from gatepass.cli import main
from gatepass.config.access import hash_key
from tests.integration.answers import COMPLETION
from tests.integration.gateway import HELLO, Gateway, relaying
from tests.integration.processes import ask as ask_port
from tests.integration.processes import started
from tests.integration.scripted import Dialogue, Received, Scripted, Send, reply

KEY = "gp-a-key-that-opens-the-door"
STREAMED = {**HELLO, "model": "mini", "stream": True}
MESSAGE = "Unsupported value: 'stream' does not support true with this model."
REFUSAL = {
    "error": {"message": MESSAGE, "type": "invalid_request_error", "param": "stream", "code": "unsupported_value"}
}
MODELS = {
    "mini": {"upstream": "chat", "name": "o3-mini", "capabilities": {"vision": False, "context_length": 200_000}},
    "plain": {"upstream": "chat"},
}


def no_stream(request: Received) -> Dialogue:
    if request.target.endswith("/models"):
        return [Send(reply({"object": "list", "data": [{"id": "o3-mini"}, {"id": "gpt-5", "object": "model"}]}))]
    asked = json.loads(request.body)
    return [Send(reply(REFUSAL, 400) if asked.get("stream") else reply(COMPLETION))]


async def page(gp: Gateway, path: str = "/learned", **headers: str) -> Any:
    return await gp.ask(None, path, method="GET", headers=headers).answer()


async def test_a_rule_of_two_members_names_the_other_one():
    refusal = {"error": {"message": "`temperature` and `top_p` cannot both be specified.", "param": None}}
    dialogues: list[Dialogue] = [[Send(reply(refusal, 400))], [Send(reply(COMPLETION))]]
    async with relaying(*dialogues) as (_, gp):
        assert (await gp.ask({**HELLO, "temperature": 0.5, "top_p": 0.5}).answer()).status == 200
        (rule,) = (await page(gp)).json()["rules"]
    assert (rule["adapted"], rule["beside"], rule["setting"]) == ("drop=top_p", "temperature", "")


# --- the model list -----------------------------------------------------------------------------------------------


async def test_caller_sees_its_own_models_only():
    keys = [{"name": "one", "hash": hash_key(KEY), "models": ["plain"]}]
    async with relaying(answer=no_stream, models=MODELS, access={"keys": keys}) as (_, gp):
        answer = await page(gp, "/v1/models", authorization=f"Bearer {KEY}")
        hidden = await page(gp, "/v1/models/mini", authorization=f"Bearer {KEY}")
    plain = {"id": "plain", "object": "model", "created": 0, "owned_by": "gatepass"}
    assert answer.json()["data"] == [plain]
    assert hidden.status == 404


# --- the command --------------------------------------------------------------------------------------------------


async def test_learned_rules_are_listed_by_the_command(tmp_path, monkeypatch):
    control = str(tmp_path / "own" / "control.sock")
    server = {"server": {"control_socket": control}}
    async with Scripted(answer=no_stream) as upstream:
        configuration = {**server, "upstreams": {"chat": {"base_url": f"{upstream.url}/v1"}}, "models": MODELS}
        async with started(tmp_path, configuration) as running:
            port = await running.port
            nothing = await called("--socket", control)
            for _ in range(21):
                assert (await ask_port(port, body=json.dumps(STREAMED).encode())).status == 200
            (row,) = (await ask_port(port, "/learned", None)).json()["rules"]
            monkeypatch.setenv("GATEPASS_CONTROL_SOCKET", control)
            people, programs = [await called(*arguments) for arguments in ((), ("--json",))]
            forgotten = await called("--forget", "chat/o3-mini")
            again = await called("--forget", "chat/o3-mini")
    asked = [json.loads(request.body).get("stream", False) for request in upstream.received]
    assert asked.count(True) == 1, "it is refused once"
    assert (row["adapted"], row["uses"]) == ("stream=synth", 21)
    assert (nothing.exit_code, nothing.output) == (0, "Nothing has been learned.\n")
    head, line, evidence, setting = people.output.splitlines()
    assert (people.exit_code, head.split()) == (0, ["MODEL", "OPERATION", "ADAPTED", "CALLERS", "AGE", "LEFT", "USES"])
    assert re.fullmatch(r"chat/o3-mini  chat       stream=synth  local +\d+ s +(\d+ s|1 min) +21", line)
    assert evidence == f"    {MESSAGE}"
    assert [(row["uses"], row["evidence"]) for row in json.loads(programs.output)] == [(21, MESSAGE)]
    assert setting == '    in the model\'s entry: stream: "emulate"'
    # an age may differ
    listed, said = [re.sub(r"\d+ (s|min) ", "", text).split() for text in (people.output, forgotten.output)]
    assert said == [*listed, "These", "rules", "are", "forgotten."]
    assert (again.exit_code, again.output) == (1, "Error: no rule of chat/o3-mini is known: see `gatepass learned`\n")


async def called(*arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, main, ["learned", *arguments])
