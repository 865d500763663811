"""Each block of commands of the pages that a newcomer reads runs where there is what the page says, and no more.

`make newcomer` is the last step of `.ci/run`. The ports are those of the pages, so no other gatepass may have them.
"""

import asyncio
import os
import platform
import re
import shutil
import stat
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from examples.demo import LIFETIME_S
from release.audit import PLANTED_ID
from ruamel.yaml import YAML

from gatepass.config.access import hash_key
from tests.docs.blocks import ROOT, blocks_of
from tests.integration.scripted import Dialogue, Received, Scripted, Send, event, reply, stream
from tests.newcomer.reader import GATEPASS, Reader, chat, commands, masked
from tests.release.test_audit import service

LISTED = YAML(typ="safe").load((Path(__file__).parent / "left_out.yaml").read_text())
LEFT_OUT = {command for listed in LISTED.values() for command in listed}
"""The commands that no test runs, each with its reason in the file. Others of their blocks run."""

README = ("README.md", "README.zh.md")
GETTING_STARTED = ("docs/getting_started.md", "docs/zh/getting_started.md")
CONTAINER = ("docs/container.md", "docs/zh/container.md")
RAGFLOW = ("docs/ragflow.md", "docs/zh/ragflow.md")
CALLERS = ("docs/operations/callers.md", "docs/zh/callers.md")
KEYS = ("docs/operations/keys.md", "docs/zh/keys.md")
EXAMPLES, RELEASE = "examples/README.md", "docs/release.md"
CLIENTS = ("docs/zh/clients.md", *sorted(str(page.relative_to(ROOT)) for page in ROOT.glob("docs/clients/*.md")))
PAGES = (*README, *GETTING_STARTED, *CONTAINER, *RAGFLOW, *CALLERS, *KEYS, EXAMPLES, RELEASE, *CLIENTS)

SECRET, TOKEN, KEY = "secret-of-the-client", "token-of-the-company", "gp-0123456789abcdef"
MODELS = ("gpt-4o", "gpt-5", "claude-sonnet-4-5")
REJECTION = {
    "message": "Unsupported value: 'temperature' does not support 0.9 with this model. Only the default (1) value is"
    " supported.",
    "type": "invalid_request_error",
    "param": "temperature",
    "code": "unsupported_value",
}


def test_each_command_that_is_left_out_is_on_a_page() -> None:
    shell = [block for page in PAGES for block in blocks_of(ROOT / page) if block.language in ("sh", "console")]
    assert LEFT_OUT - {line for block in shell for line in commands(block)} == set()
    assert ".ci/newcomer make demo ONCE=1 " in (ROOT / ".ci/run").read_text()


def completion(got: Received) -> Dialogue:
    """A whole reply or a stream, as the company's models send it."""
    body = got.json()
    if "temperature" in body:
        return [Send(reply({"error": REJECTION}, 400))]
    kind = f"chat.completion{'.chunk' if body.get('stream') else ''}"
    head = {"id": "chatcmpl-1", "object": kind, "created": 1_760_000_000, "model": body["model"]}
    if not body.get("stream"):
        message = {"role": "assistant", "content": "Hello!"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 8, "completion_tokens": 2, "total_tokens": 10}
        return [Send(reply({**head, "choices": [choice], "usage": usage}))]
    parts: Any = (({"role": "assistant", "content": "Hello!"}, None), ({}, "stop"))
    choices = [{"index": 0, "delta": delta, "finish_reason": reason} for delta, reason in parts]
    chunks = [{**head, "choices": [choice]} for choice in choices]
    return [Send(stream(*map(event, chunks), event("[DONE]")))]


def company(got: Received) -> Dialogue:
    """A token endpoint, a login, and an LLM gateway that accepts their token. Below /open it requires none."""
    if got.target in ("/token", "/oauth/token"):
        return [Send(reply({"access_token": TOKEN, "token_type": "Bearer", "expires_in": 300}))]
    if got.target == "/login":
        assert got.json() == {"user": "bot", "password": SECRET}
        return [Send(reply({"token": TOKEN, "expires_in": 300}))]
    if got.header("authorization") != f"Bearer {TOKEN}" and not got.target.startswith("/open/"):
        return [Send(reply({"error": {"message": "The token is not valid"}}, 401))]
    if got.target.endswith("/models"):
        return [Send(reply({"object": "list", "data": [{"id": model, "object": "model"} for model in MODELS]}))]
    if not got.target.endswith("/chat/completions"):
        return [Send(reply({"detail": "Not Found"}, 404))]
    return completion(got)


@pytest.fixture
async def llm() -> AsyncIterator[Scripted]:
    """The reader's company."""
    async with Scripted(answer=company) as servers:
        yield servers


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    with Reader(tmp_path, LEFT_OUT) as one:
        yield one


async def read(reader: Reader, pages: Sequence[str], follow: Callable[[str], None]) -> None:
    """Follow pages in a thread, because the company answers in this one. No block may be left."""
    for page in pages:
        await asyncio.to_thread(follow, page)
    reader.close()


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An environment with gatepass, installed as getting started says, for the pages that begin after that."""
    with Reader(tmp_path_factory.mktemp("installed"), LEFT_OUT) as one:
        one.open(GETTING_STARTED[0])
        one.run("venv/bin/pip install .")
        yield one.clone / "venv"


@pytest.fixture(scope="session", autouse=True)
def releasing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Future[Path]]:
    """The release that docs/release.md describes, made beside the tests that come before the first with its files."""
    files, scratch = tmp_path_factory.mktemp("release") / "dist", tmp_path_factory.mktemp("releasing")

    def follow() -> Path:
        with Reader(scratch, LEFT_OUT) as one, service({"jinja2": PLANTED_ID}) as osv:
            one.values["https://osv.corp.example/v1/query"] = osv
            one.open(RELEASE)
            # where buildah is installed, the release has an image: on the base that `make e2e` has made already
            cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
            one.type(f"export CONTAINER_STORE={os.environ.get('CONTAINER_STORE') or f'{cache}/gatepass/containers'}")
            print(one.run("release-pythons"))
            one.same("make release REPOSITORY")
            one.run("release.audit")
            one.close()
            shutil.copytree(one.clone / "dist", files)
        return files

    with ThreadPoolExecutor() as pool:
        is_needed = any("dist" in getattr(item, "fixturenames", ()) for item in request.session.items)
        yield pool.submit(follow) if is_needed else Future()


@pytest.fixture(scope="session")
def dist(releasing: Future[Path]) -> Path:
    """The files of a release."""
    return releasing.result()


def without_index(reader: Reader) -> None:
    """As on a machine without a network: no variable leads pip to another folder or index."""
    reader.type("unset ${!PIP_*}")


def the_key(output: str) -> str:
    (key,) = re.findall(r"gp-[\w-]{20,}", output)
    return str(key)


def answered(key: str, **more: Any) -> None:
    answer = chat(key, **more)
    assert (answer.status_code, "Hello!" in answer.text) == (200, True), answer.text


def serve_one_chat(reader: Reader, llm: Scripted) -> None:
    """Start the gatepass that is installed here, without a file, and stop it after one chat."""
    variables = {"UPSTREAM_URL": f"{llm.url}/v1", "TOKEN_URL": f"{llm.url}/token", "CLIENT_ID": "gatepass"}
    variables |= {"CLIENT_SECRET": SECRET, "KEYS": KEY}
    words = " ".join(f"GATEPASS_{name}={value}" for name, value in variables.items())
    reader.type(f"{words} gatepass serve &")
    reader.wait_for_gatepass()
    answered(KEY)
    reader.stop()


async def test_readme(reader: Reader, llm: Scripted) -> None:
    reader.values |= {
        "REPOSITORY_URL": f"file://{reader.clone}/.git",
        "https://llm.corp.example/v1": f"{llm.url}/v1",
        "https://sso.corp.example/token": f"{llm.url}/token",
        "YOUR-SECRET": SECRET,
        "GATEPASS_KEYS=KEY": f"GATEPASS_KEYS={KEY}",
        "doctor MODEL": "doctor gpt-4o",
    }

    def follow(page: str) -> None:
        reader.open(page)
        reader.run("pip install")
        reader.enter_folder()
        reader.save("gatepass.yaml", "credentials:")
        answered(the_key(reader.run("gatepass keys new")))
        reader.run("gatepass doctor")
        reader.stop()
        reader.enter_folder()
        reader.run("GATEPASS_UPSTREAM_URL")
        answered(KEY)
        reader.stop()
        reader.type("unset ${!GATEPASS_*} CORP_SECRET")

    await read(reader, README, follow)


@pytest.mark.parametrize("pages", [CONTAINER, RAGFLOW], ids=["container", "ragflow"])
async def test_the_steps_beside_the_container(
    pages: tuple[str, ...], reader: Reader, llm: Scripted, installed: Path
) -> None:
    """The files of `deploy` are written, and RAGFlow's request by curl gets what the page shows."""

    def follow(page: str) -> None:
        reader.open(page)
        folder = reader.clone / "deploy"
        reader.type("git clean --force -x -d --quiet deploy")
        reader.run("cp deploy/")
        reader.run("deploy/secrets/client_secret", stdin=f"{SECRET}\n")
        written = folder / "secrets/client_secret"
        mode = written.stat()
        assert (stat.S_IMODE(mode.st_mode), mode.st_uid, (folder / ".env").stat().st_size > 0) == (0o400, 65532, True)
        if pages == CONTAINER:
            reader.type("echo CERTIFICATE > corp.crt")
            reader.run("deploy/secrets/ca.pem")
            assert stat.S_IMODE((folder / "secrets/ca.pem").stat().st_mode) == 0o444
            return
        reader.enter_folder()
        reader.type(f". {installed}/bin/activate")
        environ = f"GATEPASS_UPSTREAM_URL={llm.url}/open/v1 GATEPASS_KEYS={KEY} GATEPASS_PROFILE=ragflow"
        reader.type(f"{environ} gatepass serve &")
        reader.wait_for_gatepass()
        reader.values |= {"http://gatepass:8080": GATEPASS, "Bearer KEY": f"Bearer {KEY}"}
        head, events = reader.run("curl -i").replace("\r", "").split("\n\n", 1)
        shown_head, shown_events = reader.shown("HTTP/1.1 200 OK").split("\n\n", 1)
        assert set(shown_head.splitlines()) <= set(head.splitlines())
        assert events.strip() == shown_events.strip()
        reader.stop()
        reader.type(f"cd {reader.clone}")

    await read(reader, pages, follow)


async def test_callers(reader: Reader, llm: Scripted) -> None:
    reader.values["http://127.0.0.1:11434/v1"] = f"{llm.url}/open/v1"

    def follow(page: str) -> None:
        reader.open(page)
        reader.run("pip install '.[crypto]'")
        reader.save("gatepass.yaml", "127.0.0.1:11434")
        assert '"gpt-4o"' in reader.run("TOKEN=")
        reader.run("gatepass check --token -")
        reader.stop()

    await read(reader, CALLERS, follow)


def file_of(llm: Scripted, *keys: str) -> str:
    rows = "".join(f"    - {key}\n" for key in keys)
    return f"upstreams:\n  chat: {{base_url: '{llm.url}/open/v1'}}\naccess:\n  keys:\n{rows}"


async def test_keys(reader: Reader, llm: Scripted, installed: Path) -> None:
    reader.type(f". {installed}/bin/activate")
    ragflow = f'{{name: ragflow, profile: ragflow, hash: "{hash_key(KEY)}"}}'
    viewer = f'{{name: prometheus, role: viewer, expires: "2099-01-31", hash: "sha256:{1:064x}"}}'

    def follow(page: str) -> None:
        reader.open(page)
        folder = reader.enter_folder()
        (folder / "gatepass.yaml").write_text(file_of(llm, ragflow, viewer))
        for command in ("--name prometheus", "--name evaluation", "--name agent", "gatepass keys list\n"):
            reader.run(command)
        reader.type("gatepass serve &")
        reader.wait_for_gatepass()
        (folder / "gatepass.yaml").write_text(file_of(llm, ragflow))
        reader.type("gatepass reload")
        second = the_key(reader.run("--name ragflow --expires"))
        reader.run("gatepass reload\n")
        for key in (KEY, second):
            answered(key)
        reader.run("--running")
        reader.stop()

    await read(reader, KEYS, follow)


async def test_clients(reader: Reader, llm: Scripted, installed: Path) -> None:
    """Each page's key is made, one request is sent in the place of the client, and the page's command shows it."""
    reader.type(f". {installed}/bin/activate")
    other = f'{{name: other, hash: "{hash_key(KEY)}"}}'

    def follow(page: str) -> None:
        text = reader.open(page)
        (folder / "gatepass.yaml").write_text(file_of(llm, other))
        if page.endswith(("README.md", "zh/clients.md")):
            key = the_key(reader.run("--name dify"))
        else:
            (command, *_) = re.findall(r"`(gatepass keys new [^`]+)`", text)
            key = the_key(reader.type(command))
        reader.type("gatepass reload")
        for line in re.findall(r"^\d\d:\d\d:\d\d 200 .+$", text, re.MULTILINE):
            request: dict[str, Any] = {"model": line.split()[4]}
            if "translate=responses" in line:
                request |= {"path": "/v1/responses", "input": "Hello", "messages": None}
            elif "translate=messages" in line:
                request |= {"path": "/v1/messages", "max_tokens": 9}
            for _ in "12":  # after the first one, gatepass knows that the upstream requires a translation
                answered(key, **request)
            reader.run("gatepass tail", last=True)

    folder = reader.enter_folder()
    (folder / "gatepass.yaml").write_text(file_of(llm, other))
    await asyncio.to_thread(reader.type, "gatepass serve &")
    await asyncio.to_thread(reader.wait_for_gatepass)
    await read(reader, CLIENTS, follow)


async def test_examples(reader: Reader) -> None:
    """The programs one at a time, with the tokens of the demo, and what the client does without gatepass."""
    reader.values |= {
        "issuer.py &": f"issuer.py --lifetime {LIFETIME_S} &",
        "--seconds 310": f"--seconds {LIFETIME_S + 2}",
    }

    def follow(page: str) -> None:
        reader.open(page)
        reader.run("pip install . openai")
        reader.wait_for_gatepass()
        steps = re.findall(r"^   ([a-z]+: ok)$", reader.run("key-of-the-client"), re.MULTILINE)
        assert len(steps) == 5
        printed = reader.run("access_token", fails=True)
        assert [line for line in reader.shown("FAILED").splitlines() if line not in printed.splitlines()] == []
        assert "stream: ok" in printed

    await read(reader, [EXAMPLES], follow)


async def test_getting_started(reader: Reader, llm: Scripted, dist: Path) -> None:
    """From the clone to the second client, and the offline install."""
    reader.values |= {"https://llm.corp.example/v1": f"{llm.url}/v1", "https://sso.corp.example": llm.url}

    def install_offline() -> None:
        folder = reader.enter_folder()
        shutil.copy(next(dist.glob(f"*-linux-{platform.machine()}.tar")), folder)
        variables = reader.type("export -p | grep ' PIP_' || true")
        without_index(reader)
        reader.run("tar xf")
        serve_one_chat(reader, llm)
        reader.type(f"deactivate\n{variables}")

    def follow(page: str) -> None:
        text = reader.open(page)
        if page == GETTING_STARTED[0]:
            install_offline()
        else:
            reader.same("tar xf")
        reader.type(f"cd {reader.clone}")
        reader.run("venv/bin/pip install .")
        assert "`pip install openai`" in text
        reader.type("pip install --quiet openai")
        reader.enter_folder()
        answers = [f"{llm.url}/v1", "oauth2", f"{llm.url}/oauth/token", "ragflow", "", SECRET, "", "", "ragflow", ""]
        printed = reader.answer("gatepass init\n", answers)
        first = the_key(printed)
        shown, real = (masked(text) for text in (reader.shown("API key:  gp-"), printed.replace("127.0.0.1", "HOST")))
        assert "\n".join(shown) in "\n".join(real)
        reader.run("gatepass serve")
        reader.type(f"export KEY={first}")
        assert '"content": "Hello!"' in reader.run("curl http")
        assert reader.run("curl -N").endswith("}\n\ndata: [DONE]\n\n")
        reader.save("chat.py", "from openai import OpenAI")
        assert reader.type("python chat.py") == "Hello!\n"
        second = the_key(reader.run("gatepass keys new"))
        reader.run("gatepass reload")
        for key in (first, second):
            answered(key)
        reader.stop()
        reader.type(f"export CORP_SECRET={SECRET}")
        for kind in ("oauth2", "login"):
            reader.enter_folder()
            reader.run(f"--auth {kind}")
        reader.type("deactivate; unset CORP_SECRET KEY")

    await read(reader, GETTING_STARTED, follow)


@pytest.mark.parametrize("form", ["wheel", "archive"])
async def test_a_file_of_a_release_alone_serves_a_chat(form: str, reader: Reader, llm: Scripted, dist: Path) -> None:
    """In an empty folder: the wheel by pip, and the archive by its own INSTALL.txt."""

    def follow() -> None:
        folder = reader.enter_folder()
        if form == "wheel":
            shutil.copy(next(dist.glob("*.whl")), folder)
            reader.type("python3 -m venv venv && . venv/bin/activate")
            reader.type("pip install *.whl")
        else:
            (archive,) = dist.glob(f"*-linux-{platform.machine()}.tar")
            shutil.copy(archive, folder)
            without_index(reader)
            install = reader.type("tar xf *.tar --to-stdout --wildcards '*/INSTALL.txt'")
            first, *others = re.findall(r"(?:^    .*\n)+", install, re.MULTILINE)
            reader.type(first.replace("    ", ""))
            assert [line.split()[0] for line in "".join(others).splitlines()] == ["pipx", "uv"]
            reader.type(". venv/bin/activate")
        serve_one_chat(reader, llm)

    await asyncio.to_thread(follow)
