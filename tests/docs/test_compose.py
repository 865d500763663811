"""The files deploy/compose*.yaml promise what their comments and pages say."""

import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from gatepass.cli import main
from gatepass.config.block import MIB
from gatepass.config.credential.oauth2 import Oauth2Credential
from gatepass.config.document import ConfigError
from gatepass.config.load import load
from gatepass.config.model import Limits, ServerConfig
from tests.docs.blocks import blocks
from tests.e2e.container import compose

ROOT = compose.DEPLOY.parent
IMAGE_FACTS = (ROOT / "Dockerfile").read_text()
RAGFLOW = ("ragflow", "ragflow_login")
EXAMPLES = {"ragflow": "ragflow", "ragflow_login": "ragflow_login", "": "clients", "clients": "clients"}
"""The example of the variables of each file."""
EVERY_FILE = pytest.mark.parametrize("name", EXAMPLES)
EACH_OF_RAGFLOW = pytest.mark.parametrize("name", RAGFLOW)
WITH_FILE = {compose.DEPLOY / f"compose.{name}.yaml" for name in ("ragflow_upstream", "replicas")}
EVERY_FILE_OF_VARIABLES = pytest.mark.parametrize(
    "file", sorted({*compose.DEPLOY.glob("compose*.yaml")} - WITH_FILE), ids=lambda file: file.name
)
A_HASH = f"sha256:{'5a' * 32}"
HASHES = {f"{name}_KEY_HASH": f"sha256:{at:064x}" for at, name in enumerate(("RAGFLOW", "OPEN_WEBUI", "LIBRECHAT"))}
HASHES["GATEPASS_KEY_HASHES"] = A_HASH
HELD = {
    "GATEPASS_CLIENT_SECRET_FILE": "s3cret-of-the-client",
    "GATEPASS_TOKEN_JSON_FILE": '{"app_id": "ragflow", "secret": "s3cret-of-the-portal"}',
}


def file_of(name: str) -> Path:
    return compose.DEPLOY / ".".join(filter(None, ("compose", name, "yaml")))


def example(name: str) -> dict[str, str]:
    return compose.example_variables(compose.DEPLOY / f"{EXAMPLES[name]}.env.example")


def service(name: str, **variables: str) -> Any:
    return compose.document({**example(name), **HASHES, **variables}, file_of(name))["services"]["gatepass"]


def environment(name: str, folder: Path, **variables: str) -> dict[str, str]:
    """Return what the file sets, with its secret in a file of this test."""
    found: dict[str, str] = service(name, **variables)["environment"]
    for variable in HELD.keys() & found.keys():
        secret = folder / Path(found[variable]).name
        secret.write_text(HELD[variable])
        secret.chmod(0o600)
        found[variable] = str(secret)
    return found


def active_lines(name: str) -> str:
    """The file without its comments."""
    return re.sub(r"(?m)(^|\s)#.*$", "", file_of(name).read_text())


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


@EVERY_FILE
def test_an_example_sets_every_variable_that_its_files_require_and_that_one_of_them_reads(name: str) -> None:
    texts = {other: active_lines(other) for other, used in EXAMPLES.items() if used == EXAMPLES[name]}
    wanted = {variable for variable in compose.variables_of(texts[name]) if f"${{{variable}:-" not in texts[name]}
    assert wanted <= set(example(name)) <= compose.variables_of("".join(texts.values()))


@EVERY_FILE
def test_compose_requires_variables_without_a_default(name: str) -> None:
    required = re.findall(r"\$\{(\w+):\?", active_lines(name))
    assert len(required) >= 3
    for variable in required:
        with pytest.raises(compose.Unset, match=variable):
            service(name, **{variable: ""})


def test_service_runs_without_rights() -> None:
    running = service("ragflow")
    assert running["read_only"] is True
    assert running["cap_drop"] == ["ALL"]
    assert running["security_opt"] == ["no-new-privileges:true"]
    assert "user" not in running, "the image's own user is not root"
    assert "privileged" not in running
    assert "ports" not in running, "nothing is published to the host"
    for name in EXAMPLES:
        kept = running.keys() - {"environment", "secrets", "networks"}
        assert {member: service(name)[member] for member in kept} == {member: running[member] for member in kept}


@EACH_OF_RAGFLOW
def test_a_variable_and_a_port_serve_the_page_for_operators(name: str, tmp_path: Path) -> None:
    assert load(None, environment(name, tmp_path)).config.server.ui is None
    assert load(None, environment(name, tmp_path, GATEPASS_UI="true")).config.server.ui is True
    port = 'ports: ["127.0.0.1:8080:8080"]'
    assert f"# To try it from the host, or for the page at /ui: {port}\n" in file_of(name).read_text()
    for page in ("container.md", "zh/container.md"):
        assert port in (ROOT / "docs" / page).read_text()


def test_stop_grace_is_longer_than_the_drain() -> None:
    assert seconds(service("ragflow")["stop_grace_period"]) >= ServerConfig().drain_timeout_s + 5


def test_service_is_reachable_by_name_in_the_network_of_ragflow() -> None:
    given = {**example("ragflow"), "RAGFLOW_NETWORK": ""}
    for name in RAGFLOW:
        networks = compose.document(given, file_of(name))["networks"]
        assert networks == {"ragflow": {"name": "docker_ragflow", "external": True}}
    assert service("ragflow")["networks"] == ["ragflow"]
    assert "EXPOSE 8080" in IMAGE_FACTS
    assert "http://gatepass:8080/v1" in (ROOT / "docs/ragflow.md").read_text()


def test_health_check_is_the_images_own() -> None:
    check = service("ragflow")["healthcheck"]
    options = dict(re.findall(r"--([a-z-]+)=(\S+)", IMAGE_FACTS.partition("HEALTHCHECK")[2].partition("CMD")[0]))
    assert check["test"] == ["CMD", "gatepass", "healthcheck"]
    assert options == {
        "interval": check["interval"],
        "timeout": check["timeout"],
        "start-period": check["start_period"],
        "retries": str(check["retries"]),
    }


@EVERY_FILE
def test_secrets_are_files_that_compose_declares(name: str) -> None:
    declared = set(compose.document({**example(name), **HASHES}, file_of(name))["secrets"])
    values = service(name)["environment"].values()
    used = {value.removeprefix("/run/secrets/") for value in values if value.startswith("/run/secrets/")}
    assert set(service(name)["secrets"]) == declared == used


@EVERY_FILE
def test_check_accepts_the_environment_of_the_file(name: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["check"], env=environment(name, tmp_path))
    assert (done.exit_code, "warning" in done.output) == (0, False), done.output


@EVERY_FILE_OF_VARIABLES
def test_every_file_passes_the_ca_the_proxy_the_other_hosts_and_client_auth(file: Path) -> None:
    required = dict.fromkeys(re.findall(r"\$\{(\w+):\?", file.read_text()), "x")
    given = {
        "GATEPASS_CA_FILE": "./ca.pem",
        "GATEPASS_PROXY": "http://proxy.corp.example:3128",
        "GATEPASS_NO_PROXY": ".corp.example,10.0.0.0/8",
        "GATEPASS_ALLOW_PLAIN_HTTP": "true",
        "GATEPASS_EMBEDDINGS_URL": "https://embed.corp.example/v1",
        "GATEPASS_RERANK_URL": "https://rerank.corp.example/v1",
    }
    running = compose.document({**required, **given}, file)["services"]["gatepass"]
    passed, ca_file = running["environment"], "/etc/gatepass/ca.pem"
    assert {name: passed[name] for name in given} == {**given, "GATEPASS_CA_FILE": ca_file}
    assert running["volumes"] == [f"./ca.pem:{ca_file}:ro"]
    without = compose.document(required, file)["services"]["gatepass"]
    assert without["volumes"] == [f"/dev/null:{ca_file}:ro"], "no edit of the file is necessary"
    empty = without["environment"]
    assert given.keys() <= empty.keys()
    assert not {name for name in given if empty[name]}, "an empty value counts as not set"
    assert (passed["GATEPASS_TOKEN_TYPE"] == "oauth2") == ("GATEPASS_CLIENT_AUTH" in passed)


@EVERY_FILE
def test_an_example_does_not_start_until_each_hash_is_put_in(name: str, tmp_path: Path) -> None:
    placeholders = {variable: value for variable, value in example(name).items() if variable in HASHES}
    for variable in placeholders.keys() & compose.variables_of(active_lines(name)):
        with pytest.raises(ConfigError, match=r"access\.keys\[\d\]\.hash"):
            load(None, environment(name, tmp_path, **{variable: placeholders[variable]}))


@EACH_OF_RAGFLOW
def test_the_line_that_keys_new_prints_fits_into_the_file_of_the_variables(name: str, tmp_path: Path) -> None:
    text = (compose.DEPLOY / f"{name}.env.example").read_text()
    (command,) = re.findall(r"gatepass:local (keys new .*)", text)
    line = CliRunner().invoke(main, command.split()).stdout.splitlines()[-1].strip()
    variable, _, value = line.partition("=")
    (key,) = load(None, environment(name, tmp_path, **{variable: value})).config.access.keys
    assert (key.name, key.profile) == ("ragflow", "ragflow")


def memory_bytes(text: str = "512m") -> int:
    """Return the bytes of a memory limit of Compose or Kubernetes."""
    ((number, unit),) = re.findall(r"^(\d+)(m|Mi|g)$", text)
    return int(number) * {"m": MIB, "Mi": MIB, "g": 1024 * MIB}[unit]


def assert_fits(limits: Limits, memory: int | None) -> None:
    """The sum of docs/operations/limits_and_memory.md, with a small request on each connection."""
    page = (ROOT / "docs/operations/limits_and_memory.md").read_text()
    found = re.findall(r"Add (\d+) KiB for each connection, (\d+) KiB for each small\s+request", page)
    ((connection_kib, request_kib),) = found
    small_kib = (limits.connections + limits.unauthenticated) * int(connection_kib) + limits.connections * int(
        request_kib
    )
    assert memory is not None
    large = 80 * MIB + limits.held_bytes * 9 // 8 + limits.body_bytes + limits.reply_bytes
    assert large + small_kib * 1024 <= memory


@pytest.mark.parametrize("file", sorted(compose.DEPLOY.glob("compose*.yaml")), ids=lambda file: file.name)
def test_the_limits_fit_the_memory_of_the_container(file: Path, tmp_path: Path) -> None:
    given = dict.fromkeys(compose.variables_of(file.read_text()), "")
    required = dict.fromkeys(re.findall(r"\$\{(\w+):\?", file.read_text()), "https://x.example/v1")
    running = compose.document({**given, **required}, file)["services"]["gatepass"]
    limits = {name: value for name, value in running["environment"].items() if "LIMITS" in name}
    held = memory_bytes(running["mem_limit"])
    loaded = load(None, {"GATEPASS_UPSTREAM_URL": "https://x.example/v1", **limits}, memory_bytes=held)
    assert_fits(loaded.config.limits, held)


def test_the_service_of_the_page_reads_what_init_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs/container.md").read_text()
    running = YAML(typ="safe").load(page.partition("```yaml\n")[2].partition("```")[0])["services"]["gatepass"]
    model = service("ragflow")
    kept = ("restart", "stop_grace_period", "read_only", "cap_drop", "security_opt", "mem_limit")
    assert {name: running[name] for name in kept} == {name: model[name] for name in kept}
    (user,) = re.findall(r"^USER (\d+):", IMAGE_FACTS, re.MULTILINE)
    assert f"`chown -R {user} secrets`" in page
    limits = {"GATEPASS_UPSTREAM_URL": "https://x.example/v1", **running["environment"]}
    held = memory_bytes(running["mem_limit"])
    assert_fits(load(None, limits, memory_bytes=held).config.limits, held)
    (line,) = re.findall(r"^docker run .* -it .*$", page, re.MULTILINE)
    assert running["volumes"] == [".:/work:ro"]
    assert line.endswith(f'-v "$PWD:/work" -w {running["working_dir"]} gatepass:local init')


def test_the_file_of_the_page_is_the_configuration_of_the_variables(tmp_path: Path) -> None:
    """And of two settings that have no variable."""
    page = (ROOT / "docs/container.md").read_text()
    _, block = blocks(page, "yaml")
    secret = tmp_path / "client_secret"
    secret.write_text("s3cret-of-the-client")
    secret.chmod(0o600)
    file = tmp_path / "gatepass.yaml"
    file.write_text(block.replace("sha256:…", A_HASH).replace("/run/secrets/client_secret", str(secret)))
    loaded = load(str(file), {})
    assert loaded.warnings == ()
    variables = environment("ragflow", tmp_path, GATEPASS_KEY_HASHES=f"{A_HASH}/name=ragflow")
    configs: list[Any] = [loaded.config, load(None, variables).config]
    assert [config.upstreams["chat"].max_in_flight for config in configs] == [8, None]
    kept = [
        (
            config.credentials["token"].token_url,
            config.credentials["token"].client_id,
            config.upstreams["chat"].base_url,
            [(key.name, key.profile) for key in config.access.keys],
        )
        for config in configs
    ]
    assert kept[0] == kept[1]


def test_only_gatepass_is_published_and_to_this_machine_only(tmp_path: Path) -> None:
    assert service("")["ports"] == ["127.0.0.1:8080:8080"]
    config = load(None, environment("", tmp_path)).config
    assert isinstance(config.credentials["token"], Oauth2Credential)
    assert len(config.access.keys) == 1


CLIENTS = ("ragflow", "open_webui", "librechat")


def test_gatepass_is_in_the_network_of_each_client_and_published_nowhere() -> None:
    networks = compose.document({**example("clients"), **HASHES}, file_of("clients"))["networks"]
    assert "ports" not in service("clients")
    assert service("clients")["networks"] == list(networks) == list(CLIENTS)
    assert all(network["external"] for network in networks.values())


def test_keys_list_prints_the_table_of_the_page(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["keys", "list"], env=environment("clients", tmp_path))
    assert done.exit_code == 0, done.output
    page = (ROOT / "docs/container.md").read_text()
    (shown,) = re.findall(r"^ *(NAME +ROLE.*?)^ *```", page, re.MULTILINE | re.DOTALL)
    hidden = [re.sub(r"\b[0-9a-f]{8}$", "", line.strip()) for line in done.stdout.splitlines()]
    assert [re.sub(r"\b[0-9a-f]{8}$", "", line.strip()) for line in shown.splitlines()] == hidden


def test_each_client_has_a_key_with_its_profile(tmp_path: Path) -> None:
    keys = load(None, environment("clients", tmp_path)).config.access.keys
    assert [(key.name, key.profile) for key in keys] == [
        *zip(CLIENTS, ("ragflow", "open_webui", "librechat"), strict=True)
    ]
