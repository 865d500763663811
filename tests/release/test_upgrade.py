"""The configuration of each earlier version works with this one, but for the settings that the upgrade page names.

The wheel of the earlier version is built from its tag or commit, and accepts the configuration itself: otherwise the
test would prove nothing.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import trustme
from release.build import ROOT, ReleaseFailed, extract, run
from ruamel.yaml import YAML

import gatepass
from gatepass.config.model import Config
from gatepass.errors import retired

RELEASED = {
    "0.2.0": "5bdf35ba502b1207a0662fdc1cf0dff484bf3041",
    "0.1.0": "a65660b76661676e36cb71bf4d052343176157ca",
}
"""Each released version before this one: its tag or commit. Add one before the version is raised."""
GONE = {"0.2.0": list[str](), "0.1.0": ["log.bodies"]}
"""The settings of a version's example that this version does not know."""


def test_each_earlier_version_of_the_changelog_is_tested():
    versions = re.findall(r"^## (\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    if ".dev" not in gatepass.__version__:
        assert versions.pop(0) == gatepass.__version__, "the first section is that of this version"
    assert list(RELEASED) == versions, "add the version, with its tag, to RELEASED"


def built(revision: str, folder: Path) -> Path:
    """Build the wheel of `revision`, and return a folder with its packages. Raises ReleaseFailed."""
    source = extract(revision, folder / "source")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder / "dist", cwd=source)
    (wheel,) = (folder / "dist").iterdir()
    shutil.unpack_archive(wheel, folder / "packages", "zip")
    return folder / "packages"


def check(file: Path, *options: str, packages: Path | None = None) -> str:
    """Run `gatepass check` of the earlier packages, or of this version. Raises ReleaseFailed if the file is invalid."""
    variables = set(re.findall(r"\$\{([A-Z_]+)\}", file.read_text()))
    environment = {name: f"{name}-0123456789abcdef" for name in variables}
    if packages is not None:
        environment["PYTHONPATH"] = str(packages)
    command = ("-P", "-m", "gatepass", "check", "--config", str(file), *options)
    return run(sys.executable, *command, cwd=file.parent, environment=environment)


@pytest.mark.parametrize("version", RELEASED)
def test_the_example_configuration_of_a_version_loads_without_what_the_upgrade_page_names(version, tmp_path):
    packages = built(RELEASED[version], tmp_path)
    example = tmp_path / "source/config.example.yaml"
    example.chmod(0o600)
    before = run(sys.executable, "-P", "-m", "gatepass", "--version", environment={"PYTHONPATH": str(packages)})
    assert before == f"gatepass, version {version}\n", "the packages of this version were imported"
    assert "# valid: " in check(example, packages=packages)
    with pytest.raises(ReleaseFailed) if GONE[version] else nullcontext() as caught:
        check(example)
    problems = "" if caught is None else str(caught.value)
    assert re.findall(r"([\w.]+): is gone\.", problems) == GONE[version]
    page = (ROOT / "docs/upgrade.md").read_text()
    assert all(f"`{setting}`" in page for setting in GONE[version])


REFERENCES = (
    "a65660b76661676e36cb71bf4d052343176157ca",
    "69a6b67ea",
    "72e974f41",
)
"""The commits whose reference pages list what a user may have written: 0.1.0, 0.2.0 as it was dated, and after it."""


def reference(revision: str, page: str) -> str:
    return run("git", "show", f"{revision}:docs/reference/{page}.md")


def names_of(revision: str) -> tuple[set[str], set[str]]:
    """Return the settings, types, variables, commands and options of the reference pages, and the common options."""
    found, common, command = set[str](), set[str](), ""
    for page in ("configuration", "credentials"):
        text = reference(revision, page)
        found.update(re.findall(r"^#{2,6} `([^`]+)`", text, re.MULTILINE))
        found.update(re.findall(r"^\| `(GATEPASS_[A-Z_0-9]+)`", text, re.MULTILINE))
    for line in reference(revision, "cli").splitlines():
        if line.startswith("## "):
            named = re.match(r"## `(gatepass[a-z -]*)`", line)
            command = named[1] if named else ""
            found.update([command] if command else [])
        if option := re.match(r"### `(gatepass[^`]* --[a-z-]+)", line):
            found.add(option[1])
        if option := re.match(r"\| `(--[a-z-]+)", line):
            (found if command else common).add(f"{command} {option[1]}".strip())
    return found, common


def is_setting(path: str, schema: dict[str, Any]) -> bool:
    """Whether the configuration of today has the setting, which a reference may describe at another place."""

    def forms(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if "$ref" in node:
            yield from forms(schema["$defs"][node["$ref"].rpartition("/")[2]])
        else:
            yield node
        for form in (*node.get("anyOf", ()), *node.get("oneOf", ())):
            yield from forms(form)

    nodes = [schema]
    for part in re.findall(r"\[\]|[^.\[\]]+", path):
        every = [form for node in nodes for form in forms(node)]
        nodes = [form["items"] for form in every if part == "[]" and "items" in form]
        nodes += [form["properties"][part] for form in every if part in form.get("properties", {})]
        more = [form.get("additionalProperties") for form in every if part != "[]"]
        more += [named for form in every if part != "[]" for named in form.get("patternProperties", {}).values()]
        nodes += [form for form in more if isinstance(form, dict)]
    return bool(nodes)


@pytest.mark.parametrize("revision", REFERENCES)
def test_each_name_that_is_gone_has_a_row(revision):
    today, common = names_of("HEAD")
    before, schema = names_of(revision)[0] - today, Config.model_json_schema()
    gone = set[str]()
    for name in before:
        command, _, option = name.rpartition(" ")
        is_kept = option.startswith("--") and (command not in today or option in common)  # the command has the row
        if not (is_kept or is_setting(name, schema)):
            gone.add(name)
    assert len(gone) > 5, "the pages are read"
    assert [name for name in sorted(gone) if not retired(name)] == []


OAUTH = ("--auth", "oauth2", "--token-url", "http://127.0.0.1:9/token", "--client-id", "gatepass")
INITS = {
    "oauth2": ("--clients", "other"),
    "a CA": ("--clients", "other", "--ca-file", "ca.pem"),
    "RAGFlow": ("--clients", "ragflow,open_webui", "--listen", "0.0.0.0"),
    "Codex": ("--clients", "codex,claude_code"),
}


@pytest.fixture(scope="session")
def version_0_2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages of 0.2.0."""
    return built(RELEASED["0.2.0"], tmp_path_factory.mktemp("built"))


def init(packages: Path, folder: Path, *options: str) -> Path:
    """Return the file that `gatepass init` of the earlier packages writes in `folder`. No hop answers there."""
    file, secret = folder / "gatepass.yaml", folder / "secret"
    secret.write_text("the-secret-of-the-client")
    secret.chmod(0o600)
    (folder / "ca.pem").write_bytes(trustme.CA().cert_pem.bytes())
    words = ("init", "--base-url", "http://127.0.0.1:9/v1", *OAUTH, "--secret-file", str(secret), *options, "--yes")
    command = [sys.executable, "-P", "-m", "gatepass", *words, "--output", str(file)]
    made = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(packages)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 1, made.stdout + made.stderr  # written, and a hop failed
    return file


@pytest.mark.parametrize("options", INITS.values(), ids=INITS)
def test_a_file_that_init_of_0_2_wrote_is_valid(options: tuple[str, ...], version_0_2: Path, tmp_path: Path):
    assert "# valid: " in check(init(version_0_2, tmp_path, *options))


COMPOSE = ("compose", "compose.ragflow", "compose.ragflow_login", "compose.ragflow_upstream", "compose.replicas")
GIVEN = {
    "GATEPASS_UPSTREAM_URL": "https://llm.corp.example/v1",
    "GATEPASS_TOKEN_URL": "https://sso.corp.example/token",
    "GATEPASS_LOGIN_URL": "https://sso.corp.example/login",
    "GATEPASS_CLIENT_ID": "gatepass",
    "GATEPASS_KEY_HASHES": f"sha256:{'0' * 64}",
}


@pytest.mark.parametrize("name", COMPOSE)
def test_the_variables_of_an_earlier_compose_file_are_valid(name: str, version_0_2: Path, tmp_path: Path):
    service = YAML(typ="safe").load(run("git", "show", f"{REFERENCES[-1]}:deploy/{name}.yaml"))["services"]["gatepass"]
    secret = tmp_path / "client_secret"
    secret.write_text('{"user": "gatepass", "password": "the-secret-of-the-client"}')
    secret.chmod(0o600)

    def value_of(found: re.Match[str]) -> str:
        default = "" if found[2] in (":+", ":?", None) else found[3]
        return GIVEN.get(found[1], default or "")

    variables = dict[str, str]()
    for key, text in service["environment"].items():
        value = re.sub(r"\$\{(\w+)(?:(:.)([^}]*))?\}", value_of, str(text))
        variables[key] = str(secret) if value.startswith("/run/secrets/") else value
    if "GATEPASS_CONFIG" in variables:
        variables["GATEPASS_CONFIG"] = str(init(version_0_2, tmp_path, *INITS["oauth2"]))
    command = (sys.executable, "-P", "-m", "gatepass", "check")
    assert "# valid: " in run(*command, cwd=tmp_path, environment=variables)
