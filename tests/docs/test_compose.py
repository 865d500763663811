"""deploy/compose.ragflow.yaml promises what its comments and docs/container.md say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML

from gatepass.config.credential.base import HttpReply
from gatepass.config.credential.http_json import HttpJsonCredential
from gatepass.config.credential.oauth2 import Oauth2Credential
from gatepass.config.environment import read_environment
from gatepass.config.model import Config, ServerConfig
from gatepass.server.pages import PATHS
from tests.e2e.container import compose

IMAGE_FACTS = (compose.DEPLOY.parent / "Dockerfile").read_text()


A_HASH = f"sha256:{'5a' * 32}"


def service(**variables: str) -> Any:
    given = {**compose.example_variables(), "GATEPASS_KEY_HASHES": A_HASH, **variables}
    return compose.document(given)["services"]["gatepass"]


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def test_example_sets_every_variable_that_the_file_requires() -> None:
    wanted = {name for name in compose.variables_of(active_lines()) if not optional(name)}
    assert wanted <= set(compose.example_variables())


def test_example_sets_no_variable_that_the_file_does_not_read() -> None:
    assert set(compose.example_variables()) <= compose.variables_of(active_lines())


@pytest.mark.parametrize("name", ["UPSTREAM_URL", "TOKEN_URL", "GATEPASS_KEY_HASHES"])
def test_compose_requires_variables_without_a_default(name: str) -> None:
    variables = {key: value for key, value in compose.example_variables().items() if key != name}
    with pytest.raises(compose.Unset, match=name):
        compose.document(variables)


def test_service_runs_without_rights() -> None:
    running = service()
    assert running["read_only"] is True
    assert running["cap_drop"] == ["ALL"]
    assert running["security_opt"] == ["no-new-privileges:true"]
    assert "user" not in running, "the image's own user is not root"
    assert "privileged" not in running
    assert "ports" not in running, "nothing is published to the host"


def test_stop_grace_is_longer_than_the_drain() -> None:
    assert seconds(service()["stop_grace_period"]) >= ServerConfig().drain_timeout_s + 5


def test_service_is_reachable_by_name_in_the_network_of_ragflow() -> None:
    networks = compose.document({**compose.example_variables(), "RAGFLOW_NETWORK": ""})["networks"]
    assert networks == {"ragflow": {"name": "docker_ragflow", "external": True}}
    assert service()["networks"] == ["ragflow"]
    assert "EXPOSE 8080" in IMAGE_FACTS
    assert "http://gatepass:8080/v1" in (compose.DEPLOY.parent / "docs/container.md").read_text()


def test_health_check_is_the_images_own() -> None:
    check = service()["healthcheck"]
    options = dict(re.findall(r"--([a-z-]+)=(\S+)", IMAGE_FACTS.partition("HEALTHCHECK")[2].partition("CMD")[0]))
    assert check["test"] == ["CMD", "gatepass", "healthcheck"]
    assert options == {
        "interval": check["interval"],
        "timeout": check["timeout"],
        "start-period": check["start_period"],
        "retries": str(check["retries"]),
    }


def test_secrets_are_files_that_compose_declares() -> None:
    declared = set(compose.document(compose.example_variables())["secrets"])
    used = {
        value.removeprefix("/run/secrets/")
        for value in service()["environment"].values()
        if value.startswith("/run/secrets/")
    }
    assert set(service()["secrets"]) == declared == used


def test_environment_is_a_configuration(tmp_path: Path) -> None:
    login = tmp_path / "login"
    login.write_text('{"app_id": "ragflow", "secret": "s3cret-of-the-portal"}')
    read = read_environment({**service()["environment"], "GATEPASS_TOKEN_JSON_FILE": str(login)})
    config = Config.model_validate(read.tree)
    login_there = config.credentials["token"]
    assert read.problems == []
    assert isinstance(login_there, HttpJsonCredential)
    assert (login_there.url, login_there.reply) == (
        "https://portal.corp.example/api/token",
        HttpReply(token="data.token", expiry="data.expireAt", unit="ms"),
    )
    assert {name: block.base_url for name, block in config.upstreams.items()} == {
        "chat": "https://llm.corp.example/v1",
        "embeddings": "https://embed.corp.example/v1",
    }
    assert config.operations["embeddings"].upstream == "embeddings"
    assert [key.profile for key in config.access.keys] == ["ragflow"]


def test_environment_without_a_host_for_embeddings_has_one_upstream() -> None:
    read = read_environment({**service(EMBEDDINGS_URL="")["environment"], "GATEPASS_TOKEN_JSON_FILE": ""})
    assert set(read.tree["upstreams"]) == {"chat"}


def test_example_does_not_start_until_the_hash_is_put_in() -> None:
    placeholder = compose.example_variables()["GATEPASS_KEY_HASHES"]
    read = read_environment({**service(GATEPASS_KEY_HASHES=placeholder)["environment"], "GATEPASS_TOKEN_JSON_FILE": ""})
    with pytest.raises(ValidationError, match=r"access\.keys\.0\.hash"):
        Config.model_validate(read.tree)


def test_oauth2_variant_is_a_valid_configuration(tmp_path: Path) -> None:
    """The lines that stand in a comment, where they replace the ones above them."""
    secret = tmp_path / "secret"
    secret.write_text("s3cret-of-the-client")
    stays = ("UPSTREAM_URL", "EMBEDDINGS_URL", "KEY_HASHES", "PROFILE")
    environment = {f"GATEPASS_{name}": service()["environment"][f"GATEPASS_{name}"] for name in stays}
    instead = dict(re.findall(r"(?m)^ +#   (GATEPASS_\w+): (.*)$", compose.FILE.read_text()))
    assert set(instead) >= {f"GATEPASS_{name}" for name in ("TOKEN_TYPE", "CLIENT_ID", "CLIENT_SECRET_FILE")}
    filled = {name: compose.filled(value, compose.example_variables()) for name, value in instead.items()}
    read = read_environment(environment | filled | {"GATEPASS_CLIENT_SECRET_FILE": str(secret)})
    assert read.problems == []
    assert isinstance(Config.model_validate(read.tree).credentials["token"], Oauth2Credential)


def test_the_page_counts_the_lines_that_oauth2_replaces() -> None:
    names = [name.removeprefix("GATEPASS_") for name in service()["environment"]]
    replaced = names[names.index("TOKEN_TYPE") : names.index("KEY_HASHES")]
    assert (len(replaced), replaced[-1]) == (6, "EXPIRES_UNIT")
    expected = "six lines from `GATEPASS_TOKEN_TYPE` to `GATEPASS_EXPIRES_UNIT`"
    page = (compose.DEPLOY.parent / "docs/container.md").read_text()
    assert expected in " ".join(page.split())


def active_lines() -> str:
    """The file without its comments."""
    return re.sub(r"(?m)(^|\s)#.*$", "", compose.FILE.read_text())


def optional(name: str) -> bool:
    return f"${{{name}:-" in active_lines()


def test_the_deployment_for_kubernetes_starts_stops_and_reads_its_secret() -> None:
    page = (compose.DEPLOY.parent / "docs/container.md").read_text()
    (block,) = re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    pod = YAML(typ="safe").load(block)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    variables = {variable["name"]: variable["value"] for variable in container["env"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert pod["terminationGracePeriodSeconds"] >= ServerConfig().drain_timeout_s + 5
    assert f"USER {pod['securityContext']['runAsUser']}" in IMAGE_FACTS
    assert {container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("readiness", "liveness")} < set(PATHS)
    assert variables["GATEPASS_CONFIG"] == f"{mounts['config']}/gatepass.yaml"
    assert f"${{file:{mounts['secrets']}/client_secret}}" in page
    assert "defaultMode: 0440" in block, "readable by others is a warning"
