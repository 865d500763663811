"""deploy/compose.clients.yaml and deploy/compose.yaml: whom they serve, and how. test_compose.py has the rest."""

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


def test_each_client_has_a_key_with_its_profile(tmp_path: Path) -> None:
    keys = config_of("compose.clients.yaml", tmp_path).access.keys
    assert [(key.name, key.profile) for key in keys] == [*zip(CLIENTS, ("ragflow", "plain", "librechat"), strict=True)]
