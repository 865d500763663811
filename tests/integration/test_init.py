"""`gatepass init`: right and wrong answers, what it writes, and the questions after a fault, against real sockets."""

import asyncio
import errno
import json
import os
import re
import stat
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import jwt
import pytest
from click.testing import CliRunner, Result

from gatepass.cli import main
from gatepass.cli.init import PLACE, QUESTIONS, SECRETS, UPSTREAM, SetupReport, questions_about, render
from gatepass.cli.options import _chinese
from gatepass.cli.steps import diagnose
from gatepass.config.advice import explained
from gatepass.config.load import load
from gatepass.documents import Step, StepOutcome
from gatepass.errors import explanations
from tests.integration.scripted import Dialogue, Received, Scripted, Send, reply
from tests.integration.test_connections import refusing_server

SECRET = "planted-secret-4711"
TOKEN = "minted-0815"
LIST = {"object": "list", "data": [{"id": "text-embedding-3"}, {"id": "gpt-4o"}]}
NO_TOKEN = ("--base-url", "https://127.0.0.1:1/v1", "--auth", "NONE")
BASIC = f"Basic {b64encode(f'me:{SECRET}'.encode()).decode()}"


def serve(request: Received) -> Dialogue:
    """Answer as an issuer with two logins, and as a strict model server below /v1."""
    if request.target == "/oauth/token":
        known = request.header("authorization") == BASIC
        minted: dict[str, Any] = {"access_token": TOKEN, "expires_in": 300}
        return [Send(reply(minted) if known else reply({"error": "invalid_client"}, 401))]
    if request.target == "/login":
        known = request.json() == {"app": "bot", "deep": [{"key": SECRET}]}
        return [Send(reply({"data": {"token": TOKEN}} if known else {"code": 10401, "msg": "wrong secret"}))]
    if not request.target.startswith("/v1/"):
        return [Send(reply({"error": {"message": "no such page"}}, 404))]
    if request.header("authorization") not in (f"Bearer {TOKEN}", f"Bearer {SECRET}"):
        return [Send(reply({"error": {"message": "bad token", "code": "invalid_token"}}, 401))]
    return [Send(reply(LIST))]


@asynccontextmanager
async def servers() -> AsyncIterator[str]:
    async with Scripted(answer=serve) as scripted:
        yield scripted.url.removesuffix("/v1")


async def run(folder: Path, *arguments: str, answers: tuple[str, ...] = ()) -> Result:
    """Run `gatepass init` in `folder`. `answers` are the lines that are typed."""
    typed = "".join(f"{line}\n" for line in answers)
    command = ["init", "--output", str(folder / "gatepass.yaml"), *arguments]
    return await asyncio.to_thread(CliRunner().invoke, main, command, typed)


async def failures(folder: Path) -> list[str]:
    """Return the steps of `gatepass doctor` that fail with the written file, which `check` accepts."""
    loaded = load(str(folder / "gatepass.yaml"), os.environ)
    assert loaded.warnings == ()
    return [f"{step.hop} {step.what}" async for step in diagnose(loaded.config) if step.failed]


def assert_secret_is_kept(folder: Path, result: Result) -> None:
    assert SECRET not in result.output
    assert TOKEN not in result.output
    assert SECRET not in (folder / "gatepass.yaml").read_text()
    secret_file = folder / "secrets" / UPSTREAM
    assert secret_file.read_text() == SECRET
    assert stat.S_IMODE(secret_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(secret_file.parent.stat().st_mode) == 0o700


def assert_keys_are_shown(folder: Path, result: Result) -> None:
    shown = re.findall(r"API key:  (gp-\S+)", result.output)
    written = re.findall(r"hash: ['\"]?(sha256:\w+)", (folder / "gatepass.yaml").read_text())
    assert [f"sha256:{sha256(key.encode()).hexdigest()}" for key in shown] == written != []


async def test_right_answers_write_a_file_that_passes_check_and_doctor(tmp_path):
    async with servers() as url:
        typed = (
            f"{url}/v1",
            "oauth2",
            f"{url}/oauth/token",
            "me",
            "",
            SECRET,
            "",
            "",
            "ragflow,codex,opencode,my",
            "0.0.0.0",
        )
        result = await run(tmp_path, answers=typed)
        assert result.exit_code == 0, result.output
        assert await failures(tmp_path) == []
    assert_secret_is_kept(tmp_path, result)
    config = load(str(tmp_path / "gatepass.yaml"), os.environ).config
    assert [(key.name, key.profile) for key in config.access.keys] == [
        ("ragflow", "ragflow"),
        ("codex", None),
        ("opencode", None),
        ("my", None),
    ]
    assert config.upstreams[UPSTREAM].include_usage
    assert "ok   upstream:llm models: answers and accepts the token" in result.output
    assert "  codex\n    base URL: http://HOST:8080/v1\n    API key:  gp-" in result.output
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["gatepass.yaml", "secrets"]


async def test_a_pasted_url_with_a_query_is_split_and_a_secret_in_it_is_not_written(tmp_path):
    async with servers() as url:
        common = ("--auth", "none", "--clients", "my", "--yes")
        pasted = f"{url}/v1?api-version=2025-01-01&scene=%24%7BHOME%7D"
        result = await run(tmp_path, "--base-url", pasted, "--embeddings-url", f"{url}/v1/e?x=y", *common)
        assert "Wrote" in result.output
        secret = await run(tmp_path, "--force", "--base-url", f"{url}/v1?ak-token={SECRET}", *common)
    config = load(str(tmp_path / "gatepass.yaml"), {}).config
    assert config.upstreams[UPSTREAM].base_url == f"{url}/v1"
    sent = {name: one.reveal() for name, one in config.upstreams[UPSTREAM].query.items()}
    assert sent == {"api-version": "2025-01-01", "scene": "${HOME}"}
    assert [*config.upstreams["embeddings"].query] == ["x"]
    assert secret.exit_code == 2
    assert "ak-token: ${NAME}" in secret.output
    assert SECRET not in secret.output


async def test_a_key_and_a_json_login_and_no_credential_pass_too(tmp_path):
    body = json.dumps({"app": "bot", "deep": [{"key": PLACE}]})
    async with servers() as url:
        for number, typed in enumerate([("key", SECRET), ("login", f"{url}/login", body, SECRET)]):
            folder = tmp_path / str(number)
            folder.mkdir()
            result = await run(
                folder, "--login-token", "data.token", answers=(f"{url}/v1", *typed, "", "", "other", "")
            )
            assert result.exit_code == 0, result.output
            assert await failures(folder) == []
            assert_secret_is_kept(folder, result)
            assert ("reply: {token: data.token}" in (folder / "gatepass.yaml").read_text()) is (typed[0] == "login")
    async with Scripted(answer=lambda _: [Send(reply(LIST))]) as upstream:
        result = await run(tmp_path, answers=(f"{upstream.url}/v1", "none", "", "", "other", ""))
        assert result.exit_code == 0, result.output
        assert await failures(tmp_path) == []
    assert not (tmp_path / "secrets").exists()


async def test_each_hop_that_fails_leads_back_to_its_questions(tmp_path):
    with refusing_server() as closed:
        async with servers() as url:
            typed = (
                *(f"{closed}/v1", "oauth2", f"{closed}/token", "you", "chat", SECRET, "", "", "other", ""),
                *("y", f"{url}/oauth/token", ""),  # after the connection to the token endpoint: no proxy
                *("y", "", "me", "-", "wrong", ""),  # after the token: another client id, no scope, a wrong secret
                *("y", "", "", "", SECRET, ""),  # after the token
                *("y", f"{url}/v1", ""),  # after the connection to the upstream: no proxy
            )
            result = await run(tmp_path, answers=typed)
            assert result.exit_code == 0, result.output
            assert await failures(tmp_path) == []
    assert_secret_is_kept(tmp_path, result)
    failed = re.findall(r"^FAIL (\S+ \w+)", result.output, re.MULTILINE)
    assert [*dict.fromkeys(failed)] == ["credential:llm token", "upstream:llm models"]
    assert result.output.count("Answer again?") == 4
    assert "Scope (-: none) [chat]" in result.output
    assert "scope" not in (tmp_path / "gatepass.yaml").read_text()


async def test_a_wrong_answer_is_asked_again_at_once(tmp_path):
    wrong = ("ragflow, my app", ",", "mine", "127.0.0.1:8088", "all", "localhost")
    async with servers() as url:
        base = ("", f"{url}/v1".replace("//", "//user:planted-password@"), f"{url}/v1")
        typed = (*base, "oauth3", "OAuth 2", "", f"{url}/oauth/token", "", "me", "", "", SECRET, "", "", *wrong)
        result = await run(tmp_path, answers=typed)
    assert result.exit_code == 0, result.output
    assert result.output.count("The answer is empty.") == 4
    for words in ("holds a user name or password", "'oauth3' is none of none, key", "names 'my app': use letters"):
        assert words in result.output
    for words in ("names no client", "has a port: --port sets it", "'all' is no address"):
        assert words in result.output
    assert "FAIL" not in result.output
    config = load(str(tmp_path / "gatepass.yaml"), os.environ).config
    assert (config.server.host, [key.name for key in config.access.keys]) == ("localhost", ["mine"])


async def test_options_and_variable_replace_all_questions(tmp_path, monkeypatch):
    monkeypatch.setenv("CORP_SECRET", SECRET)
    async with servers() as url:
        options = (
            *("--yes", "--base-url", f"{url}/v1", "--auth", "oauth2", "--token-url", f"{url}/oauth/token"),
            *("--secret-env", "CORP_SECRET", "--clients", "open_webui,LibreChat,Cherry Studio,OpenWebUI"),
        )
        result = await run(tmp_path, *options, "--client-id", "me")
        assert result.exit_code == 0, result.output
        assert await failures(tmp_path) == []
        written = load(str(tmp_path / "gatepass.yaml"), os.environ).config
        assert [(key.name, key.profile) for key in written.access.keys] == [
            ("open_webui", None),
            ("LibreChat", "librechat"),
            ("cherry_studio", "cherry_studio"),
            ("OpenWebUI", None),
        ]
        assert "client_secret: '${CORP_SECRET}'" in (tmp_path / "gatepass.yaml").read_text()
        again = await run(tmp_path, *options, "--client-id", "me")
        assert (again.exit_code, "--force" in again.output) == (2, True)
        wrong = await run(tmp_path, *options, "--force", "--client-id", "you")
        assert (wrong.exit_code, "invalid_client" in wrong.output) == (1, True)
        assert f"Correct what failed, and run `gatepass doctor --config {tmp_path}/gatepass.yaml`." in wrong.output
        assert_keys_are_shown(tmp_path, wrong)
    assert not (tmp_path / "secrets").exists()


async def test_a_configuration_that_cannot_be_written_leaves_no_secret(tmp_path, monkeypatch):
    def replace_file(path: Path, text: str, mode: int = 0o600) -> None:
        if path.name == "gatepass.yaml":
            raise OSError(errno.ENOSPC, "No space left on device")
        path.write_text(text)

    monkeypatch.setattr("gatepass.config.references.replace_file", replace_file)
    async with servers() as url:
        result = await run(tmp_path, answers=(f"{url}/v1", "key", SECRET, "", "", "other", ""))
    assert (result.exit_code, "cannot be written: No space left on device" in result.output) == (2, True)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


async def test_a_second_file_in_the_folder_takes_no_secret_of_the_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    async with servers() as url:
        for output, code in (("a b.yaml", 0), ("gatepass.yaml", 2), ("a b.yaml", 0)):
            typed = (f"{url}/v1", "key", SECRET, "", "", "other", "")
            command = ["init", "--force", "--output", output]
            result = await asyncio.to_thread(CliRunner().invoke, main, command, "\n".join((*typed, "")))
            assert result.exit_code == code, result.output
            words = "another file may use it" if code else "Next: `gatepass serve --config 'a b.yaml'` serves."
            assert words in result.output
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a b.yaml", "llm", "secrets"]


@pytest.mark.parametrize(("before", "after"), [(0o640, 0o640), (0o666, 0o644)])
async def test_an_overwritten_file_gets_no_wider_permissions(tmp_path, monkeypatch, before, after):
    monkeypatch.setenv("CORP_SECRET", SECRET)
    file = tmp_path / "gatepass.yaml"
    file.touch()
    file.chmod(before)
    mask = os.umask(0o022)
    try:
        async with servers() as url:
            key = ("--auth", "key", "--secret-env", "CORP_SECRET")
            result = await run(tmp_path, "--base-url", f"{url}/v1", *key, "--yes", "--force")
    finally:
        os.umask(mask)
    assert result.exit_code == 0, result.output
    assert stat.S_IMODE(file.stat().st_mode) == after
    assumed = [line for line in result.output.splitlines() if line.startswith("Assumed ")]
    assert assumed == ["Assumed --clients other", "Assumed --listen 127.0.0.1"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--base-url: missing"),
        (("--base-url", "nonsense"), "--base-url: expects http"),
        (("--base-url", "https://127.0.0.1:1/v1"), "--token-url, --client-id: missing"),
        (("--base-url", "https://127.0.0.1:1/v1", "--auth", "key"), "--secret-file / --secret-env: missing"),
        (
            ("--base-url", "https://127.0.0.1:1/v1", "--auth", "key", "--secret-env", "UNSET_SECRET"),
            "--secret-env: the environment variable UNSET_SECRET is not set",
        ),
        ((*NO_TOKEN, "--listen", "all"), "--listen: 'all' is no address of this machine: 0.0.0.0"),
        ((*NO_TOKEN, "--listen", "a" * 70), "is no address of this machine: 0.0.0.0"),
    ],
)
async def test_answers_that_cannot_be_used_end_the_command(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    result = await run(tmp_path, "--yes", *arguments)
    assert (result.exit_code, words in result.output) == (2, True), result.output
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    result = await run(tmp_path, "--yes", *arguments)
    assert re.findall(r" [a-z]{3,} [a-z]{2,}", result.output) == [], "one language"


KEY_OF_VARIABLE = ("--auth", "key", "--secret-env", "CORP_SECRET")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("--base-url", "https://127.0.0.1:1/v1/chat/completions"),
            "ends in /chat/completions, which gatepass appends",
        ),
        (("--base-url", "https://127.0.0.1:1/V1/Responses"), "ends in /responses"),
        (("--base-url", "https://127.0.0.1:1/v1", "--rerank-url", "https://127.0.0.1:1/rerank"), "ends in /rerank"),
        (("--base-url", "https://127.0.0.1:1/v1", "--ca-file", "absent.pem"), "network.ca_file: cannot be used"),
        (("--base-url", "http://llm.corp.example/v1"), "allow_plain_http: true under upstreams.llm"),
        (("--base-url", "https://127.0.0.1:1/v1", "--secret-file", "absent"), "credentials.llm.token: the file absent"),
    ],
)
async def test_what_check_refuses_is_not_written_and_gets_no_key(tmp_path, monkeypatch, arguments, words):
    monkeypatch.setenv("CORP_SECRET", SECRET)
    monkeypatch.chdir(tmp_path)
    key = KEY_OF_VARIABLE[:2] if "--secret-file" in arguments else KEY_OF_VARIABLE
    result = await run(tmp_path, "--yes", *key, *arguments)
    assert (result.exit_code, words in result.output) == (2, True), result.output
    assert "gp-" not in result.output
    assert list(tmp_path.iterdir()) == []


async def test_an_answer_that_check_refuses_is_asked_again_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("CORP_SECRET", SECRET)
    async with servers() as url:
        given = ("--base-url", f"{url}/v1", "--ca-file", "absent.pem", *KEY_OF_VARIABLE)
        result = await run(tmp_path, *given, answers=("", "", "my", "", "y", "-"))
        assert result.exit_code == 0, result.output
        assert await failures(tmp_path) == []
        refused = await run(tmp_path, *given, "--force", answers=("", "", "my", "", "n"))
    assert (refused.exit_code, "it was not written" in refused.output) == (2, True)
    assert "ca_file" not in (tmp_path / "gatepass.yaml").read_text()  # the earlier file
    assert not (tmp_path / "secrets").exists()


async def test_another_source_is_written_without_a_credential_that_check_would_miss(tmp_path):
    result = await run(tmp_path, "--base-url", "https://127.0.0.1:1/v1", "--auth", "other", "--yes")
    assert result.exit_code == 0, result.output
    loaded = load(str(tmp_path / "gatepass.yaml"), {})
    assert (loaded.warnings, loaded.config.upstreams[UPSTREAM].credential) == ((), None)
    assert "First add your credential to" in result.output


@pytest.mark.parametrize("language", ["", "zh_CN.UTF-8"])
@pytest.mark.parametrize("secret", ["--secret-file", "--secret-env"])
async def test_advice_names_no_command_for_a_running_gatepass(tmp_path, monkeypatch, language, secret):
    monkeypatch.setenv("LC_ALL", language)
    monkeypatch.setenv("CORP_SECRET", "wrong")
    (tmp_path / "secret").write_text("wrong")
    async with servers() as url:
        oauth2 = (
            "--base-url",
            f"{url}/v1",
            "--auth",
            "oauth2",
            "--token-url",
            f"{url}/oauth/token",
            "--client-id",
            "me",
        )
        value = str(tmp_path / "secret") if secret == "--secret-file" else "CORP_SECRET"
        result = await run(tmp_path, "--yes", *oauth2, secret, value)
    assert (result.exit_code, "invalid_client" in result.output) == (1, True), result.output
    assert "client_secret" in result.output
    assert [word for word in ("reload", "restart", "重启", "retries", "file:") if word in result.output] == []


@pytest.mark.parametrize("name", [name for name, entry in explanations().items() if entry.of not in ("doctor", "part")])
def test_no_advice_of_an_error_says_reload_before_gatepass_runs(name):
    texts = explained(name, {"credential": UPSTREAM})
    step = Step("upstream:llm", "models", StepOutcome.FAILS, "", texts["action"], advice_zh=texts["action_zh"])
    report = SetupReport(as_json=True)
    report.add(step)
    (shown,) = report.steps
    assert "reload" not in f"{shown.advice} {shown.advice_zh}"
    assert "--force-recreate" not in f"{shown.advice} {shown.advice_zh}"


async def test_a_chinese_reader_is_asked_in_chinese(tmp_path, monkeypatch):
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    with refusing_server() as closed:
        wrong = (
            f"{closed}/v1/chat/completions",
            "ftp://x",
            f"{closed}/v1",
            "oauth3",
            "key",
            "",
            SECRET,
            "",
            "",
            "a b,-",
            "me",
        )
        result = await run(tmp_path, answers=(*wrong, "0.0.0.0:1", "", "y", "", "-", "n"))
    assert result.exit_code == 1, result.output
    kept = r"https?://\S+|`[^`]*`|原文：.*|gp-\S+|\[[^]]*\]|^  me$|base URL|API key"
    words = re.findall(r"[a-z]{3,} [a-z]{2,} [a-z]+", re.sub(kept, "", result.output, flags=re.MULTILINE))
    assert words == [], result.output


def test_every_question_has_its_chinese():
    assert {one.text for one in QUESTIONS.values()} | set(SECRETS.values()) <= set(_chinese())


async def test_plain_http_to_another_machine_is_used_only_if_the_operator_agrees(tmp_path):
    remote = ("--token-url", "http://sso.corp.example/token", "--client-id", "me", "--secret-env", "PATH")
    async with servers() as url:
        options = ("--base-url", f"{url}/v1", "--auth", "oauth2", *remote)
        refused = await run(tmp_path, "--yes", *options)
        assert (refused.exit_code, "allow_plain_http" in refused.output) == (2, True)
        assert list(tmp_path.iterdir()) == []
        allowed = await run(tmp_path, "--yes", "--force", *options, "--allow-plain-http")
        asked = await run(tmp_path, "--force", *options, answers=("", "", "", "other", "", "y", "n"))
    for result in (allowed, asked):
        assert "FAIL credential:llm token" in result.output, result.output


@pytest.mark.parametrize(
    ("arguments", "answers"),
    [
        (("--yes",), ()),  # the hop fails
        ((), ("", "", "one,two", "")),  # the input ends before the question whether to answer again
        ((), ("", "", "one,two", "", "n")),
    ],
)
async def test_each_key_whose_hash_is_in_the_file_is_shown(tmp_path, arguments, answers):
    (tmp_path / "secret").write_text(SECRET)
    with refusing_server() as closed:
        options = ("--base-url", f"{closed}/v1", "--auth", "key", "--secret-file", str(tmp_path / "secret"))
        result = await run(tmp_path, *options, *arguments, answers=answers)
    assert result.exit_code == 1, result.output
    assert_keys_are_shown(tmp_path, result)


@pytest.mark.parametrize(
    ("proxy", "offered"),
    [
        ("http://127.0.0.1:9", True),
        ("http://me:planted-password@127.0.0.1:9", False),
        ("socks5://127.0.0.1:9", False),
        ("", False),
    ],
)
async def test_the_proxy_of_the_shell_is_offered(tmp_path, monkeypatch, proxy, offered):
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    monkeypatch.delenv("https_proxy", raising=False)
    with refusing_server() as closed:
        answers = (f"{closed}/v1", "key", SECRET, "", "", "other", "", "y", "", "", "n")
        result = await run(tmp_path, answers=answers)
    assert result.exit_code == 1, result.output
    assert (f"HTTP proxy for these hosts (-: none) [{proxy}]" in result.output) is offered
    assert (f"proxy: {proxy}" in (tmp_path / "gatepass.yaml").read_text()) is offered
    assert "planted-password" not in result.output


@pytest.mark.parametrize(
    ("answers", "option"),
    [
        ((), "--base-url"),
        (("URL/v1",), "--auth"),
        (("URL/v1", "key"), "--secret-file / --secret-env"),
        (("URL/v1", "key", SECRET, "", "", "mine"), "--listen"),
    ],
)
async def test_input_that_ends_names_the_option_to_pass_and_leaves_nothing(tmp_path, answers, option):
    """Without a terminal it was "Aborted!" with exit code 1."""
    async with servers() as url:
        result = await run(tmp_path, answers=tuple(line.replace("URL", url) for line in answers))
    assert (result.exit_code, "Aborted" in result.output) == (2, False)
    assert f"\n{option}: has no answer, and the input has ended" in result.output
    assert list(tmp_path.iterdir()) == []


async def test_an_existing_file_without_a_terminal_names_force(tmp_path):
    (tmp_path / "gatepass.yaml").write_text("kept")
    result = await run(tmp_path)
    assert (result.exit_code, "--force: has no answer" in result.output) == (2, True)
    assert (tmp_path / "gatepass.yaml").read_text() == "kept"


@pytest.mark.parametrize("given", ["ca.pem", "{folder}/x/../ca.pem"])
def test_the_file_names_a_ca_in_the_folder_of_the_start_by_a_relative_path(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    answers = {"base_url": "https://llm.corp.example", "auth": "none", "ca_file": given.format(folder=tmp_path)}
    here = render(answers, "", folder=tmp_path)
    assert "network: {ca_file: ca.pem}" in here
    assert "# Start gatepass in the folder of this file: its paths are relative.\n" in here
    elsewhere = render(answers, "", folder=tmp_path / "x")
    assert f"network: {{ca_file: {tmp_path}/ca.pem}}" in elsewhere
    assert "relative" not in elsewhere


ENDED = jwt.encode({"exp": 1_760_000_000}, "0" * 32, "HS256")


@pytest.mark.parametrize(
    ("others", "operations"),
    [
        ({"embeddings_url": "e", "rerank_url": "r"}, {"embeddings": "embeddings", "rerank": "rerank"}),
        ({"embeddings_url": "e", "rerank_url": "e"}, {"embeddings": "embeddings", "rerank": "embeddings"}),
        ({"embeddings_url": "", "rerank_url": "r"}, {"rerank": "rerank"}),
        ({"embeddings_url": "llm", "rerank_url": ""}, {}),
    ],
)
def test_other_addresses_become_upstreams_with_the_same_credential(tmp_path, others, operations):
    given = {name: f"https://{host}.example/v1" if host else "" for name, host in others.items()}
    answers = {"base_url": "https://llm.example/v1", "auth": "key", **given}
    (tmp_path / "gatepass.yaml").write_text(render(answers, "${S}"))
    config = load(str(tmp_path / "gatepass.yaml"), {"S": SECRET}).config
    assert {name: route.upstream for name, route in config.operations.items()} == operations
    assert config.upstreams.keys() == {UPSTREAM, *operations.values()}
    assert {upstream.credential for upstream in config.upstreams.values()} == {UPSTREAM}
    assert {name: config.upstreams[name].base_url for name in operations.values()} == {
        name: given[f"{name}_url"] for name in operations.values()
    }


async def test_another_address_that_fails_is_asked_again(tmp_path):
    with refusing_server() as closed:
        async with servers() as url:
            typed = (f"{url}/v1", "key", SECRET, f"{closed}/v1", "", "other", "", "y", f"{url}/v1", "")
            result = await run(tmp_path, answers=typed)
            assert result.exit_code == 0, result.output
            assert await failures(tmp_path) == []
    assert "FAIL upstream:embeddings models: " in result.output
    assert_secret_is_kept(tmp_path, result)


async def test_a_key_that_has_ended_is_asked_again(tmp_path):
    async with servers() as url:
        result = await run(tmp_path, answers=(f"{url}/v1", "key", f"Bearer {ENDED}", "", "", "other", "", "y", SECRET))
        assert result.exit_code == 0, result.output
        assert await failures(tmp_path) == []
    assert "FAIL credential:llm token: " in result.output
    assert ENDED not in result.output
    assert_secret_is_kept(tmp_path, result)


HOSTILE = "m\x1b]0;title\x07\x9b31m\nserver: {port: 1}\u2028x\u202e"
"""A server's text that sets a terminal's title and colour, and looks like a line of gatepass."""


@pytest.mark.parametrize(
    "answer",
    [
        *("a: b, c", "x}\nevil: 1", "#no", "*", "${HOME}$$", '"\\', "\x7f\x85\u2028é😀", "true", "- a", "\ufeff"),
        *("?a", ":a", "? a", "a\x85b", "\u2028"),
    ],
)
def test_answer_cannot_change_other_lines_of_the_file(tmp_path, answer):
    body = {"key": PLACE, answer: [answer, {answer: 1.5}]}
    answers = {"base_url": "http://127.0.0.1:1/v1", "auth": "login", "login_url": "http://127.0.0.1:1/"}
    path = tmp_path / "gatepass.yaml"
    path.write_text(render({**answers, "login_body": json.dumps(body)}, "${S}"), encoding="utf-8")
    config = load(str(path), {"S": SECRET}).config
    assert config.server.port == 8080
    login: Any = config.credentials[UPSTREAM]
    assert login.json_body == {"key": SECRET, answer: [answer, {answer: 1.5}]}
    oauth2 = {**answers, "auth": "oauth2", "token_url": "http://127.0.0.1:1/", "client_id": answer}
    path.write_text(render(oauth2, "${S}"), encoding="utf-8")
    client: Any = load(str(path), {"S": SECRET}).config.credentials[UPSTREAM]
    assert client.client_id == answer


async def test_a_server_writes_nothing_but_text_to_the_terminal_and_the_file(tmp_path):
    def serve_hostile(request: Received) -> Dialogue:
        models = {"object": "list", "data": [{"id": HOSTILE}]}
        return [Send(reply(models if request.target == "/v1/models" else {"error": {"message": HOSTILE}}, 200))]

    async with Scripted(answer=serve_hostile) as scripted:
        url = scripted.url.removesuffix("/v1")
        result = await run(tmp_path, answers=(f"{url}/v1", "key", SECRET, "", "", "other", ""))
    assert result.exit_code == 0, result.output
    for text in (result.output, (tmp_path / "gatepass.yaml").read_text()):
        assert all(char.isprintable() or char == "\n" for char in text)
        assert not any(line.startswith("server: {port") for line in text.splitlines())


@pytest.mark.parametrize(
    ("what", "error", "asked"),
    [
        ("token", "dns", ("token_url", "proxy")),
        ("token", "tls", ("token_url", "ca_file")),
        ("models", "upstream_tls", ("base_url", "ca_file")),
        ("models", "upstream_timeout_connect", ("base_url", "proxy")),
        ("models", "upstream_auth", ("base_url", "token_url", "client_id", "scope", "secret")),
        ("token", "refused", ("token_url", "client_id", "scope", "secret", "client_auth")),
    ],
)
def test_the_code_of_a_failed_step_decides_what_is_asked_again(what, error, asked):
    hop = "credential:llm" if what == "token" else "upstream:llm"
    step = Step(hop, what, StepOutcome.FAILS, "no", "Set network.proxy and network.ca_file.", error=error)
    assert questions_about(step, "oauth2") == asked
