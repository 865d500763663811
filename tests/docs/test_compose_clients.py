"""deploy/compose.clients.yaml and deploy/compose.yaml: what they set is a configuration that works."""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gatepass.cli import main
from gatepass.config.credential.oauth2 import Oauth2Credential
from gatepass.config.environment import read_environment
from gatepass.config.model import Config, ServerConfig
from tests.e2e.container import compose
from tests.integration.gateway import CHAT, HELLO, JSON, gateway
from tests.integration.scripted import Scripted, Send, reply

FILES = ("compose.yaml", "compose.clients.yaml")
EXAMPLE = compose.DEPLOY / "clients.env.example"
PAGE = (compose.DEPLOY.parent / "docs/container.md").read_text()
CLIENTS = ("ragflow", "open_webui", "librechat")
KEYS = {name: f"gp-0123456789abcdef-{name}" for name in CLIENTS}
HASHES = {f"{name.upper()}_KEY_HASH": f"sha256:{sha256(key.encode()).hexdigest()}" for name, key in KEYS.items()}
VARIABLES = {**compose.example_variables(EXAMPLE), **HASHES, "GATEPASS_KEY_HASHES": HASHES["RAGFLOW_KEY_HASH"]}
HELD = "The secret of the client"


def text_of(name: str) -> str:
    """The file without its comments."""
    return re.sub(r"(?m)(^|\s)#.*$", "", (compose.DEPLOY / name).read_text())


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


def test_the_example_sets_what_the_files_read_and_nothing_else() -> None:
    read = {name: compose.variables_of(text_of(name)) for name in FILES}
    optional = set(re.findall(r"\$\{(\w+):-", "".join(map(text_of, FILES))))
    given = set(compose.example_variables(EXAMPLE))
    assert given <= set().union(*read.values())
    assert set().union(*read.values()) - optional <= given


@pytest.mark.parametrize("file", FILES)
def test_a_missing_value_stops_compose(file: str) -> None:
    for name in re.findall(r"\$\{(\w+):\?", text_of(file)):
        with pytest.raises(compose.Unset, match=name):
            document(file, **{name: ""})


@pytest.mark.parametrize("file", FILES)
def test_the_container_has_the_rights_and_limits_of_the_one_for_ragflow(file: str) -> None:
    own = document(file)["services"]["gatepass"]
    model = compose.document(compose.example_variables())["services"]["gatepass"]
    kept = set(model) - {"environment", "secrets", "networks"}
    assert {name: own[name] for name in kept} == {name: model[name] for name in kept}
    assert float(own["stop_grace_period"].removesuffix("s")) >= ServerConfig().drain_timeout_s + 5
    assert own["secrets"] == list(document(file)["secrets"]) == ["client_secret"]


@pytest.mark.parametrize("file", FILES)
def test_check_accepts_the_environment_of_the_file(file: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["check"], env=environment(file, tmp_path))
    assert done.exit_code == 0, done.output


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


def test_a_hash_that_was_not_put_in_does_not_start(tmp_path: Path) -> None:
    placeholder = compose.example_variables(EXAMPLE)["LIBRECHAT_KEY_HASH"]
    given = document("compose.clients.yaml", LIBRECHAT_KEY_HASH=placeholder)["services"]["gatepass"]["environment"]
    read = read_environment({**given, "GATEPASS_CLIENT_SECRET_FILE": str(tmp_path / "none")})
    with pytest.raises(ValueError, match=r"access\.keys\.2\.hash"):
        Config.model_validate(read.tree)


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
