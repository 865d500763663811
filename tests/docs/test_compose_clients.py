"""deploy/compose.clients.yaml and deploy/compose.yaml: whom they serve, and how. test_compose.py has the rest."""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from gatepass.cli import main
from gatepass.config.credential.oauth2 import Oauth2Credential
from gatepass.config.environment import read_environment
from gatepass.config.model import Config
from tests.e2e.container import compose
from tests.integration.gateway import CHAT, HELLO, JSON, gateway
from tests.integration.scripted import Scripted, Send, reply

EXAMPLE = compose.DEPLOY / "clients.env.example"
PAGE = (compose.DEPLOY.parent / "docs/container.md").read_text()
CLIENTS = ("ragflow", "open_webui", "librechat")
KEYS = {name: f"gp-0123456789abcdef-{name}" for name in CLIENTS}
HASHES = {f"{name.upper()}_KEY_HASH": f"sha256:{sha256(key.encode()).hexdigest()}" for name, key in KEYS.items()}
VARIABLES = {**compose.example_variables(EXAMPLE), **HASHES, "GATEPASS_KEY_HASHES": HASHES["RAGFLOW_KEY_HASH"]}
HELD = "The secret of the client"


def document(name: str, **variables: str) -> Any:
    return compose.document({**VARIABLES, **variables}, compose.DEPLOY / name)


def environment(name: str, folder: Path) -> dict[str, str]:
    secret = folder / "client_secret"
    secret.write_text(HELD)
    secret.chmod(0o600)
    return {**document(name)["services"]["gatepass"]["environment"], "GATEPASS_CLIENT_SECRET_FILE": str(secret)}


def config_of(name: str, folder: Path) -> Config:
    read = read_environment(environment(name, folder))
    assert read.problems == []
    return Config.model_validate(read.tree)


def test_only_gatepass_is_published_and_to_this_machine_only(tmp_path: Path) -> None:
    assert document("compose.yaml")["services"]["gatepass"]["ports"] == ["127.0.0.1:8080:8080"]
    config = config_of("compose.yaml", tmp_path)
    assert isinstance(config.credentials["token"], Oauth2Credential)
    assert len(config.access.keys) == 1


def test_gatepass_is_in_the_network_of_each_client_and_published_nowhere() -> None:
    whole = document("compose.clients.yaml")
    assert "ports" not in whole["services"]["gatepass"]
    assert whole["services"]["gatepass"]["networks"] == list(whole["networks"]) == list(CLIENTS)
    assert all(network["external"] for network in whole["networks"].values())


def test_keys_list_prints_the_table_of_the_page(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["keys", "list"], env=environment("compose.clients.yaml", tmp_path))
    assert done.exit_code == 0, done.output
    (shown,) = re.findall(r"^ *(NAME +ROLE.*?)^ *```", PAGE, re.MULTILINE | re.DOTALL)
    hidden = [re.sub(r"\b[0-9a-f]{8}$", "", line.strip()) for line in done.stdout.splitlines()]
    assert [re.sub(r"\b[0-9a-f]{8}$", "", line.strip()) for line in shown.splitlines()] == hidden


async def test_three_keys_get_their_profiles_and_share_one_token(tmp_path: Path) -> None:
    """The configuration of compose.clients.yaml serves here, with its hosts replaced by servers of this test."""
    strict_null = {"type": "function", "function": {"name": "f", "strict": None, "parameters": {}}}
    call = {"id": "c", "index": 0, "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [*HELLO["messages"], {"role": "assistant", "content": None, "tool_calls": [call]}]
    messages.append({"role": "tool", "tool_call_id": "c", "content": "1"})
    body = {**HELLO, "messages": messages, "tools": [strict_null]}
    answers = {
        "/token": {"access_token": "the-token", "token_type": "Bearer", "expires_in": 300},
        CHAT: {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}]},
    }
    async with Scripted(answer=lambda request: [Send(reply(answers[request.target]))]) as corp:
        tree = config_of("compose.clients.yaml", tmp_path).model_dump(exclude_unset=True, by_alias=True)
        tree["upstreams"]["chat"]["base_url"] = f"{corp.url}/v1"
        tree["credentials"]["token"]["token_url"] = f"{corp.url}/token"
        async with gateway(**tree) as gatepass:
            for key in KEYS.values():
                answer = await gatepass.ask(body, headers={**JSON, "authorization": f"Bearer {key}"}).answer()
                assert answer.status == 200
            wrong = await gatepass.ask(body, headers={**JSON, "authorization": "Bearer gp-another-key-0000"}).answer()
    chats = [request for request in corp.received if request.target == CHAT]
    sent = dict(zip(CLIENTS, (request.json() for request in chats), strict=True))
    assert wrong.status == 401
    assert [request.target for request in corp.received].count("/token") == 1
    assert {request.header("authorization") for request in chats} == {"Bearer the-token"}
    indexed = {name: "index" in value["messages"][1]["tool_calls"][0] for name, value in sent.items()}
    strict = {name: "strict" in value["tools"][0]["function"] for name, value in sent.items()}
    assert indexed == {"ragflow": False, "open_webui": True, "librechat": True}
    assert strict == {"ragflow": True, "open_webui": True, "librechat": False}
