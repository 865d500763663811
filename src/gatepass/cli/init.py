"""`gatepass init`: ask for the upstream, its token and the clients, test each answer, and write the configuration.

Each question is also an option. `render` makes the file from the answers. The tests are steps of `gatepass doctor`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import shlex
import stat
import sys
import tempfile
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from ipaddress import ip_address
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any

import click

from gatepass.cli.options import CHECK_FAILED, exit_unusable, open_state, printable, reachable_host
from gatepass.config.file import DEFAULT_FILE
from gatepass.errors import documentation

if TYPE_CHECKING:
    from gatepass.cli.reach import Step, Steps
    from gatepass.config.model import Config

UPSTREAM = "llm"
SECRET_VARIABLE = "GATEPASS_INIT_SECRET"  # noqa: S105 - the name of a variable
HOST_VARIABLE = "GATEPASS_HOST"
PLACE = "{secret}"
"""Where the secret belongs in the body of a JSON login."""
AUTH = ("none", "key", "oauth2", "login", "other")


@dataclass(frozen=True, slots=True)
class Question:
    """One answer that the configuration needs. `text` is the prompt, `help` the line of `gatepass init --help`."""

    name: str
    text: str
    help: str
    default: str = ""
    choices: tuple[str, ...] = ()
    is_optional: bool = False

    @property
    def option(self) -> str:
        return f"--{self.name.replace('_', '-')}"


QUESTIONS: Mapping[str, Question] = {
    question.name: question
    for question in (
        Question("base_url", "Base URL of the LLM gateway", "Base URL of the LLM gateway, usually ending in /v1."),
        Question(
            "auth",
            "How it authenticates: none, key (one that does not expire), oauth2 (client credentials), login (JSON),"
            " other (a program, a file or a cloud identity)",
            "How the LLM gateway authenticates. other: you add the credential to the file"
            f"{documentation('docs/tokens.md', ', as a recipe of {}')}.",
            "oauth2",
            AUTH,
        ),
        Question("token_url", "URL of the token endpoint", "oauth2: the URL of the token endpoint."),
        Question("client_id", "Client id", "oauth2: the client id."),
        Question("scope", "Scope", "oauth2: the scope. Default: none.", is_optional=True),
        Question(
            "client_auth",
            "Where the secret is sent: basic or form",
            "oauth2: send the secret in a header (basic) or in the form.",
            "basic",
            ("basic", "form"),
        ),
        Question("login_url", "URL of the login", "login: the URL to which the JSON body is posted."),
        Question(
            "login_body",
            f"JSON body of the login, with {PLACE} in place of the secret",
            f'login: the JSON body with {PLACE} in place of the secret, such as {{"id": "bot", "key": "{PLACE}"}}.',
        ),
        Question(
            "login_token",
            "Where the token is in the reply (empty: usual names)",
            "login: the path of the token in the reply, such as data.token. Default: the usual names.",
        ),
        Question(
            "ca_file", "PEM file with the certificate of your company's CA", "PEM file of a CA.", is_optional=True
        ),
        Question(
            "proxy", "HTTP proxy for these hosts", "HTTP proxy, such as http://proxy.corp:3128.", is_optional=True
        ),
        Question(
            "clients",
            "Clients, separated by commas (ragflow, open_webui, librechat, dify, codex, claude_code or other names)",
            "Clients, separated by commas. Each gets a key, and its profile if there is one.",
            "other",
        ),
        Question(
            "listen",
            "Address to listen on (0.0.0.0 if clients run in containers or on other machines)",
            "Address to listen on. Clients in containers or on other machines require 0.0.0.0.",
            "127.0.0.1",
        ),
    )
}
OF_AUTH: Mapping[str, tuple[str, ...]] = {
    "oauth2": ("token_url", "client_id", "scope"),
    "login": ("login_url", "login_body"),
}
AFTER_A_FAULT: Mapping[str, tuple[str, ...]] = {"oauth2": ("client_auth",), "login": ("login_token",)}
"""Questions about the credential that are asked only after a fetch failed."""
RELATED: Mapping[str, tuple[str, ...]] = {
    "tls": ("ca_file",),
    "resolve": ("proxy",),
    "connect": ("proxy",),
    "proxy": ("proxy",),
    "models": ("base_url",),
}
"""Questions about the network that are asked only after this step failed."""
_NETWORK_SETTING = re.compile(rf"(?<![\w.])(?:(?:upstreams|credentials)\.{UPSTREAM}\.)?network\.(ca_file|proxy)\b")
_TRIAL_KEY = re.compile(
    rf"Replace the key in the environment variable {SECRET_VARIABLE} by one (that .+?), then restart gatepass\."
)
NO_ANSWER = "-"
"""What an operator types to remove an earlier answer to an optional question."""


def with_options(text: str) -> str:
    """Return `text` with the option, and the setting that `render` writes, instead of those of one server.

    The key of a trial is not configured yet.
    """
    text = _TRIAL_KEY.sub(r"Enter a key \1.", text)
    return _NETWORK_SETTING.sub(lambda found: f"--{found[1].replace('_', '-')} (or network.{found[1]})", text)


@dataclass(frozen=True, slots=True)
class ClientKey:
    """A client. `profile` is empty if it needs none."""

    name: str
    profile: str
    hash: str


def path_in_file(path: str | Path, folder: Path) -> str:
    """Return `path` as a configuration file in `folder` names it.

    It is relative if the file is written into the current folder, where gatepass then starts, and `path` is below it.
    The folder can then be moved, or mounted into a container. Else it is absolute.
    """
    whole = Path(os.path.normpath(Path(path).expanduser().absolute()))
    return str(whole.relative_to(folder) if folder == Path.cwd() and whole.is_relative_to(folder) else whole)


def render(
    answers: Mapping[str, str],
    secret: str,
    keys: Sequence[ClientKey] = (),
    notes: Sequence[str] = (),
    folder: Path = Path("/"),
) -> str:
    """Return the configuration as commented YAML.

    `secret` is the reference to the secret, never its value. `notes` are tests that failed; they become comments of
    one line each. `folder` is that of the file. A `$` in an answer is a dollar, never the beginning of a reference.
    """
    from gatepass.config.yaml_file import yaml_lines

    body = answers.get("login_body", "")
    if ca_file := answers.get("ca_file"):
        answers = {**answers, "ca_file": path_in_file(ca_file, folder)}
    # not the body, whose texts are escaped after it is parsed
    answers = {**{name: answer.replace("$", "$$") for name, answer in answers.items()}, "login_body": body}
    network = {name: answers[name] for name in ("ca_file", "proxy") if answers.get(name)}
    plain = {"allow_plain_http": True} if answers.get("allow_plain_http") else {}
    reference = documentation("docs/reference/configuration.md", ", {}")
    lines = [
        f"# Written by `gatepass init`. All settings: `gatepass schema`{reference}",
        "# Next: `gatepass doctor` tests every hop, `gatepass serve` serves.",
        *(["# Start gatepass in the folder of this file: its paths are relative."] if folder == Path.cwd() else []),
        *(f"# Not proven: {printable(note)}" for note in notes),
        "",
    ]
    if keys:
        # the trial configurations have no keys, and without keys only loopback is valid
        server = {"host": answers.get("listen") or "127.0.0.1", "port": int(answers.get("port", 8080))}
        lines += yaml_lines({"server": server})
    if network:
        lines += ["# For all servers that gatepass calls, and the token endpoint.", *yaml_lines({"network": network})]
    if answers["auth"] == "other":
        recipes = documentation("docs/tokens.md", " {} has the recipes.")
        lines += [
            f"# Replace these lines by your credential and name it {UPSTREAM}.{recipes}",
            "# credentials:",
            f"#   {UPSTREAM}:",
            "#     type: …",
            "",
        ]
    elif answers["auth"] != "none":
        credential = _credential(answers, secret)
        keeps = "does not renew this token. It sends it as"
        if answers["auth"] != "key":
            credential |= plain
            keeps = "keeps this token valid and sends it as"
        lines += [
            f"# gatepass {keeps} `Authorization: Bearer …`.",
            *yaml_lines({"credentials": {UPSTREAM: credential}}),
        ]
    upstream: dict[str, Any] = {"base_url": answers["base_url"], **plain}
    if answers["auth"] != "none":
        upstream["credential"] = UPSTREAM
    if protocols := answers.get("protocols"):
        upstream["protocols"] = protocols.split(",")
    lines += [
        "# The LLM gateway. With one upstream every model name is passed on.",
        *(["# `protocols` is what it has. gatepass serves the others by chat completions."] if protocols else []),
        *yaml_lines({"upstreams": {UPSTREAM: upstream}}),
    ]
    if keys:
        entries = [{name: text for name, text in asdict(key).items() if text} for key in keys]
        lines += [
            "# One key for each client. A profile makes the changes that its client needs.",
            "# `gatepass keys new --name NAME` creates another key.",
            *yaml_lines({"access": {"keys": entries}}),
        ]
    return "\n".join(lines)


def _credential(answers: Mapping[str, str], secret: str) -> dict[str, Any]:
    if answers["auth"] == "key":
        return {"type": "static", "token": secret}
    if answers["auth"] == "oauth2":
        optional = {"scope": answers.get("scope"), "client_auth": answers.get("client_auth")}
        return {
            "type": "oauth2",
            "token_url": answers["token_url"],
            "client_id": answers["client_id"],
            "client_secret": secret,
            # people read this file, so it has no line for a default
            **{name: value for name, value in optional.items() if value and value != QUESTIONS[name].default},
        }
    body = json.loads(answers["login_body"])
    reply = {"reply": {"token": answers["login_token"]}} if answers.get("login_token") else {}
    return {"type": "http_json", "url": answers["login_url"], "json": _with_secret(body, secret), **reply}


def _with_secret(node: Any, secret: str) -> Any:
    if isinstance(node, dict):
        return {name: _with_secret(value, secret) for name, value in node.items()}
    if isinstance(node, list):
        return [_with_secret(value, secret) for value in node]
    return node.replace("$", "$$").replace(PLACE, secret) if isinstance(node, str) else node


_HOST_NAME = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")
"""A host name. A text without a letter is an IP address, or a wrong one."""


def fault_of(name: str, answer: str) -> str:
    """Return why `answer` cannot be the answer to the question `name`; empty if it can, or if a test decides."""
    from gatepass.config.block import NAME

    match name:
        case "base_url" | "token_url" | "client_id" | "login_url" if not answer:
            return "is empty"
        case "login_body":
            try:
                document = json.loads(answer)
            except ValueError:
                return "is not JSON"
            if not isinstance(document, dict):
                return "is not a JSON object"
            return "" if PLACE in answer else f"has no {PLACE}, where gatepass puts the secret"
        case "clients":
            names = _client_names(answer)
            if wrong := next((each for each in names if not re.fullmatch(NAME, each)), None):
                return f"has the name {wrong!r}: use letters, digits, dots, underscores and hyphens"
            return "" if names else "names no client"
        case "listen" if not _HOST_NAME.fullmatch(answer):  # names are left to the server
            try:
                ip_address(answer)
            except ValueError:
                return "is not an IP address or a host name without a port. --port sets the port"
    return ""


def _client_names(text: str) -> list[str]:
    return list(dict.fromkeys(filter(None, (each.strip() for each in text.split(",")))))


PASTE: Mapping[str, str] = {
    "ragflow": "provider OpenAI-API-Compatible\n    Base url: {url}\n    API-Key:  {key}",
    "open_webui": "Admin Settings > Connections > OpenAI\n    URL: {url}\n    Key: {key}",
    "librechat": (
        "librechat.yaml, endpoints.custom\n    baseURL: {url}\n    apiKey:  {key}\n    models: {{fetch: true}}"
    ),
    "dify": "model provider OpenAI-API-compatible\n    API Base URL: {url}\n    API Key:      {key}",
    "opencode": "opencode.json{page}\n    baseURL: {url}\n    apiKey:  {key}",
    "other": "any OpenAI client\n    base URL: {url}\n    API key:  {key}",
}
"""Where the two values belong in each client, in the words of its interface."""


@dataclass
class Setup:
    """The answers so far. Options come first; the terminal is asked for the rest."""

    answers: dict[str, str]
    is_interactive: bool
    secret: str = field(default="", repr=False)
    secret_reference: str = ""
    """The reference that an option gave: `${file:…}` or `${NAME}`. Empty: gatepass writes a file."""
    notes: list[str] = field(default_factory=list)
    models: list[str] = field(default_factory=list)

    @property
    def chat_model(self) -> str:
        """The first model of the list whose name does not show another purpose; empty if there is none."""
        return next((name for name in self.models if "embed" not in name.lower()), "")

    def model_of(self, client: str) -> str:
        """Return the first Claude for Claude Code, the newest GPT for Codex, else `chat_model`."""
        if client == "claude-code":
            return next((name for name in self.models if "claude" in name.lower()), self.chat_model)
        if client == "codex":
            # (5, 1) of `gpt-5.1-codex`, (0,) of another name of Codex; Azure has gpt-35 for 3.5
            found = [re.search(r"gpt-(?!35)(\d+(?:\.\d+)?)|codex", name.lower()) for name in self.models]
            versions = [() if one is None else tuple(map(int, (one[1] or "0").split("."))) for one in found]
            if any(versions):
                return self.models[versions.index(max(versions))]
        return self.chat_model

    def ask(self, name: str, *, again: bool = False) -> None:
        """Set the answer to the question `name`, unless it is known. `again` asks with the old answer as default."""
        question, known = QUESTIONS[name], self.answers.get(name)
        if known is not None and not again:
            fault = fault_of(name, known)
            if question.choices and known not in question.choices:
                fault = f"{known!r} is none of {', '.join(question.choices)}"
            if fault:
                exit_unusable(f"{question.option}: {fault}")
            return
        if not self.is_interactive:
            if known is None and not question.default and not question.is_optional:
                exit_unusable(f"{question.option}: is missing, and --yes asks no question")
            self.answers[name] = known or question.default
            if known is None and question.default:
                others = ", ".join(choice for choice in question.choices if choice != question.default)
                click.echo(f"Assumed {question.option} {question.default}{others and f' (or {others})'}")
            return
        default = known if known is not None else question.default
        shown = click.Choice(question.choices) if question.choices else None
        text = question.text
        if question.is_optional:
            text += f" ({NO_ANSWER}: none)" if default else " (empty: none)"
        while True:
            answer = click.prompt(
                text, default=default, show_default=bool(default), type=shown, show_choices=False
            ).strip()
            if question.is_optional and answer == NO_ANSWER:
                answer = ""
            if not (fault := fault_of(name, answer)):
                break
            click.echo(f"The answer {fault}.")
        self.answers[name] = answer

    def ask_secret(self, *, again: bool = False) -> None:
        """Ask for the secret without showing it. It stays in memory until the file is written."""
        if self.answers["auth"] in ("none", "other"):
            return
        if self.secret_reference or (self.secret and not again):
            return
        if not self.is_interactive:
            exit_unusable("--secret-file or --secret-env: is missing, and --yes asks no question")
        from gatepass.clock import SystemClock
        from gatepass.tokens.lifetime import ended_at
        from gatepass.tokens.token_reply import strip_bearer

        label = {"key": "API key", "oauth2": "Client secret", "login": "Secret"}[self.answers["auth"]]
        text = f"{label} of the LLM gateway (hidden){', empty: unchanged' if again else ''}"
        while True:
            answer = click.prompt(text, hide_input=True, default="", show_default=False)
            if not answer and not again:
                click.echo("The answer is empty. What you enter or paste is not shown.")
                continue
            ended = ended_at(strip_bearer(answer), SystemClock().wall()) if self.answers["auth"] == "key" else ""
            if not ended:
                break
            click.echo(f"The answer is a token that ended at {ended}. Enter one that is valid.")
        self.secret = answer or self.secret

    def settle(
        self, names: Sequence[str], test: Callable[[], Coroutine[Any, Any, Step | None]], *, has_secret: bool = False
    ) -> None:
        """Ask for `names` until `test` finds no fault, or the operator keeps the answers in spite of it."""
        again = False
        while True:
            for name in names:
                self.ask(name, again=again)
            if has_secret:
                self.ask_secret(again=again)
            failed = asyncio.run(test())
            if failed is None:
                return
            if not self.is_interactive:
                click.echo("A test failed: no file was written. Correct the options of what FAIL names.", err=True)
                sys.exit(CHECK_FAILED)
            if failed.what == "configuration" and "allow_plain_http" in failed.why:
                if click.confirm("Send the secret and the token over the network in plain text?", default=False):
                    self.answers["allow_plain_http"] = "true"
                    continue
            elif failed.what != "configuration" and not click.confirm("Answer again?", default=True):
                self.notes.append(f"{failed.hop} {failed.what}: {failed.why}")
                return
            if failed.base_url:  # the other answers are right
                self.answers["base_url"] = failed.base_url
                self.ask("base_url", again=True)
                again = False
                continue
            again = True
            extra = RELATED.get(failed.what, ())
            if failed.what == "token":
                extra = AFTER_A_FAULT.get(self.answers["auth"], ())
            elif failed.what == "configuration":  # options may have given these
                extra = tuple(name for name in ("ca_file", "proxy") if self.answers.get(name))
            names = tuple(dict.fromkeys((*names, *extra)))

    def load(self) -> Config:
        """Return the configuration of the answers so far; raise ConfigError."""
        from gatepass.config.load import load

        # as a variable, so that no file holds the secret before the tests accept it
        environment = {**os.environ, SECRET_VARIABLE: self.secret}
        environment.pop(HOST_VARIABLE, None)  # the image sets it, and it requires keys, which a trial does not have
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "gatepass.yaml"
            text = render(self.answers, self.secret_reference or f"${{{SECRET_VARIABLE}}}")
            path.write_text(text, encoding="utf-8")
            return load(str(path), environment).config

    async def reach_upstream(self) -> Step | None:
        from gatepass.cli.reach import reach, upstream_server

        async def test(config: Config) -> Steps:
            yield await reach(upstream_server(UPSTREAM, config.upstreams[UPSTREAM]))

        # without the credential, about which nothing has been asked yet
        return await Setup({**self.answers, "auth": "none"}, self.is_interactive).first_failed(test)

    async def test_token(self) -> Step | None:
        """Run doctor and return the step that failed. Without one, read what the upstream has."""
        from gatepass.cli.steps import diagnose

        def is_shown(step: Step) -> bool:
            return step.hop.startswith("credential:") or step.what == "models" or step.failed

        if (failed := await self.first_failed(diagnose, is_shown)) is None:
            await self.read_upstream()
        return failed

    async def read_upstream(self) -> None:
        """Read the models of the upstream, and the protocols that it has, if it lacks some and all are known."""
        from gatepass.cli.probe import LIST_S, protocols_of, protocols_text
        from gatepass.errors import GatepassError
        from gatepass.proxy.models import fetch_models

        async with open_state(self.load()) as state:
            upstream = state.upstreams[UPSTREAM]
            for holder in state.holders.values():
                holder.start()
            with suppress(GatepassError, TimeoutError):  # `diagnose` has reported the reason
                async with asyncio.timeout(LIST_S):
                    entries = await fetch_models(state, upstream)
                # the upstream's text, printed on the terminal
                self.models = [printable(entry["id"]) for entry in entries]
            found = await protocols_of(state, upstream)
        if (text := protocols_text(found)) and None not in found.values():
            click.echo(f"The LLM gateway {text}.")
            self.answers["protocols"] = ",".join(name for name, has in found.items() if has)

    async def first_failed(
        self, test: Callable[[Config], Steps], is_shown: Callable[[Step], bool] = lambda _: True
    ) -> Step | None:
        """Test the configuration so far, print the steps that `is_shown` selects, and return the first that failed."""
        from gatepass.cli.doctor import Report
        from gatepass.cli.reach import Step, StepOutcome
        from gatepass.config.document import ConfigError, dotted

        report = Report(as_json=False, wording=with_options)
        try:
            config = self.load()
        except ConfigError as error:
            texts = "; ".join(f"{dotted(problem.path)}: {problem.text}" for problem in error.problems)
            report.add(Step("gatepass", "configuration", StepOutcome.FAILS, texts))
        else:
            await report.show(test(config), is_shown)
        return next((step for step in report.steps if step.failed), None)


def _options(command: Callable[..., None]) -> Callable[..., None]:
    for question in reversed(list(QUESTIONS.values())):  # decorators apply from the last to the first
        shown = click.Choice(question.choices) if question.choices else None
        command = click.option(question.option, question.name, help=question.help, type=shown)(command)
    return command


@click.command()
@click.option("--output", default="gatepass.yaml", show_default=True, help="The file to write.")
@_options
@click.option(
    "--port", type=click.IntRange(1, 65535), default=8080, show_default=True, help="Port to listen on, for the clients."
)
@click.option("--secret-file", help="File with the secret or key. gatepass reads it again when it changes.")
@click.option("--secret-env", help="Environment variable with the secret or key.")
@click.option("--allow-plain-http", is_flag=True, help="Allow plain HTTP to other machines. Others can read the token.")
@click.option("--yes", is_flag=True, help="Ask no question. A test that fails ends the command with exit code 1.")
@click.option("--force", is_flag=True, help="Overwrite the file.")
def init(
    output: str,
    port: int,
    secret_file: str | None,
    secret_env: str | None,
    *,
    allow_plain_http: bool,
    yes: bool,
    force: bool,
    **given: str | None,
) -> None:
    """Write a configuration: ask for the LLM gateway, its token and the clients, and test each answer at once.

    Answers come from the options, then from you. A secret that you type goes into a file
    that only you can read, never into the configuration. With the image, GATEPASS_HOST is the address to listen on.

    Exit codes: 0 written, 1 a test failed, 2 invalid command line or answers.
    """
    from gatepass.auth.api_keys import new_key
    from gatepass.cli.agent_hosts import AGENT_HOSTS, settings_of
    from gatepass.config.access import BUILT_IN_PROFILES, PLAIN

    path = Path(output).absolute()
    if secret_file and "}" in path_in_file(secret_file, path.parent):
        exit_unusable("--secret-file: a path with } cannot stand in a configuration: move or rename the file")
    if path.exists() and not force and (yes or not click.confirm(f"{output} exists. Overwrite it?", default=False)):
        exit_unusable(f"{output} exists: nothing was written. --force overwrites it.")
    if path.is_dir():
        exit_unusable(f"--output: {path} is a folder: name a file in it")
    try:  # before any question is asked and any key is made
        # A trial finds more than os.access: for example a full disk, or a folder that does not exist.
        with tempfile.TemporaryFile(dir=path.resolve().parent):
            pass
    except OSError as error:
        exit_unusable(f"--output: {path} cannot be written: {error.strerror}")
    logging.getLogger("gatepass").addHandler(logging.NullHandler())  # keeps log lines out of the answers
    answers = {name: value for name, value in given.items() if value is not None} | {"port": str(port)}
    if allow_plain_http:
        answers["allow_plain_http"] = "true"
    if host := os.environ.get(HOST_VARIABLE):
        answers.setdefault("listen", host)  # it overrides the file
    file_reference = f"${{file:{path_in_file(secret_file, path.parent)}}}" if secret_file else ""
    setup = Setup(answers, not yes, secret_reference=f"${{{secret_env}}}" if secret_env else file_reference)

    setup.settle(("base_url",), setup.reach_upstream)
    setup.ask("auth")
    names = OF_AUTH.get(setup.answers["auth"], ())
    if setup.answers["auth"] != "other":
        setup.settle(names, setup.test_token, has_secret=True)
    if setup.models:
        shown = ", ".join(setup.models[:MOST_SHOWN]) + (" …" if len(setup.models) > MOST_SHOWN else "")
        click.echo(f"Models: {shown}")
    setup.ask("clients")
    setup.ask("listen")
    keys = []
    for name in _client_names(setup.answers["clients"]):
        value, key_hash = new_key()
        profile = name if BUILT_IN_PROFILES.get(name, PLAIN) != PLAIN else ""  # the file has no line without an effect
        keys.append((ClientKey(name, profile, key_hash), value))
    secret_path = _write(path, setup, [key for key, _ in keys])

    url = f"http://{reachable_host(setup.answers['listen'])}:{port}"
    written = " and ".join([output, *([secret_path] if secret_path else [])])
    place = " HOST is the name or address of this machine." * url.startswith("http://HOST:")
    click.echo(f"\nWrote {written}.{place} Enter these values; each key is shown only now:\n")
    for key, value in keys:
        name = key.name.replace("_", "-")
        model = setup.model_of(name)
        if agent_host := AGENT_HOSTS.get(name):
            text = settings_of(agent_host, url, model or "MODEL", value)
            test = f"It uses /v1/{agent_host.operation}; an LLM gateway with chat completions alone serves it too. Test"
            test += f" it with `gatepass doctor {model or 'MODEL'} --as {name} --key {key.name}`."
            click.echo(indent(f"{key.name}: {text}{test}\n", "  "))
            continue
        shown = PASTE.get(key.name, PASTE["other"]).format(
            url=f"{url}/v1", key=value, page=documentation(f"docs/clients/{key.name}.md", ", see {}")
        )
        click.echo(f"  {key.name}: {shown}\n    model: {model or 'a model name of the LLM gateway'}\n")
    if len(keys) > 1:
        setting = "access.keys[].operations"
        setting += documentation("docs/operations/keys.md#limit-the-operations-of-a-key", " ({})")
        click.echo(f"Stored files, batches and responses are closed to these clients: {setting} opens them.")
    if host:
        outside = [secret_file or "", setup.answers.get("ca_file", "")]
        _print_container(path, secret_path, outside, secret_env, port)
    if setup.answers["auth"] == "other":
        recipes = documentation("docs/tokens.md", " {} has the recipes.")
        click.echo(f"First write the credential {UPSTREAM!r} into {output}.{recipes}")
    click.echo("Next: `gatepass doctor` tests every hop, `gatepass serve` serves.")
    opened = "`server.ui: true` and a key of `gatepass keys new --role admin` open the page for operators"
    ui = opened if keys else "The page for operators is"
    click.echo(f"{ui} at {url}/ui/{documentation('docs/operations/ui.md', ': {}')}")


WORK_FOLDER = "/work"
"""Where a container has the folder of the configuration."""

IMAGE_USER = 65532
"""The user of the image."""

IMAGE_PORT = 8080
"""The GATEPASS_PORT of the image. It overrides the port of the file."""


def compose_lines(path: Path, others: Sequence[str], secret_env: str | None, port: int) -> list[str]:
    """Return the lines of a service with which it reads the file `path` and `others`, as the user who wrote them.

    For root, the user of the image remains.

    The folder is mounted, not the file: a mounted file stays the old one when it is replaced.
    """
    folder = path.parent
    is_here = folder == Path.cwd()
    paths = [path_in_file(other, folder) for other in others if other]
    mounts = [f".:{WORK_FOLDER}:ro" if is_here else f"{folder}:{folder}:ro"]
    mounts += [f"{other}:{other}:ro" for other in paths if Path(other).is_absolute()]
    variables = [] if path.name == DEFAULT_FILE and is_here else [f"GATEPASS_CONFIG={path.name if is_here else path}"]
    variables += [f"GATEPASS_PORT={port}"] if port != IMAGE_PORT else []
    variables += [secret_env] if secret_env else []
    return [
        *([f'user: "{os.geteuid()}:{os.getegid()}"'] if os.geteuid() else []),
        *([f"working_dir: {WORK_FOLDER}"] if is_here else []),
        f"volumes: {json.dumps(mounts)}",
        *([f"environment: {json.dumps(variables)}"] if variables else []),
    ]


def _print_container(path: Path, secret_path: str, outside: Sequence[str], secret_env: str | None, port: int) -> None:
    """Print what a service of Compose needs to read the written files and those `outside` their folder."""
    click.echo("Add these lines to the service `gatepass` of your Compose file in this folder:\n")
    click.echo("\n".join(f"    {line}" for line in compose_lines(path, outside, secret_env, port)))
    secrets = [path.parent / "secrets", secret_path] if secret_path else outside[:1]
    files = [name for file in (path, *secrets) if file and os.path.exists(name := path_in_file(file, path.parent))]
    closed = shlex.join(name for name in files if not os.stat(name).st_mode & stat.S_IROTH)
    if os.geteuid() == 0 and closed:
        click.echo(
            f"\nThe image runs as user {IMAGE_USER}. Run `chown {IMAGE_USER} {closed}` so that it can read them."
        )
    click.echo(f"\nClients in the network of this service use http://gatepass:{port}/v1.")


MOST_SHOWN = 12


def _write(path: Path, setup: Setup, keys: Sequence[ClientKey]) -> str:
    """Write the file of the secret, if one was typed, and the configuration. Nothing stays if one of them fails.

    Return the path of the file of the secret, as the configuration names it; empty without one.
    """
    from gatepass.config.references import replace_file

    secret_file = path.parent / "secrets" / UPSTREAM
    secret_path = path_in_file(secret_file, path.parent)
    reference = setup.secret_reference or f"${{file:{secret_path}}}"
    text = render(setup.answers, reference, keys, setup.notes, path.parent)
    try:
        if setup.secret:
            secret_file.parent.mkdir(mode=0o700, exist_ok=True)
            replace_file(secret_file, setup.secret)
        # It holds only a reference to the secret, so the umask decides who may read a new file. The operator may have
        # restricted an old one.
        replace_file(path, text, mode=0o666 & (path.stat().st_mode if path.exists() else 0o666))
    except OSError as error:
        if setup.secret:
            secret_file.unlink(missing_ok=True)
        exit_unusable(f"{path}: cannot be written: {error.strerror}")
    return secret_path if setup.secret else ""
