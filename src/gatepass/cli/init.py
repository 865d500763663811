"""`gatepass init`: ask for the upstream, its token and the clients, write the configuration, and run doctor on it.

Each question is also an option. A hop that fails leads back to its questions. `render` makes the file.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import shlex
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from msgspec import structs

from gatepass.cli.doctor import Report
from gatepass.cli.options import CHECK_FAILED, exit_unusable, printable
from gatepass.cli.options import translated as t
from gatepass.config.advice import filled
from gatepass.config.document import SettingPath, dotted
from gatepass.errors import documentation

if TYPE_CHECKING:
    from gatepass.documents import Step

UPSTREAM = "llm"
ELSEWHERE = ("embeddings", "rerank")
"""Operations that may be at another address. The upstream of such an address has the name of its operation."""
PLACE = "{secret}"  # where the secret belongs in the body of a JSON login


@dataclass(frozen=True, slots=True)
class Question:
    """One answer that the configuration needs. `text` is the prompt, and the help of the option."""

    name: str
    text: str
    default: str = ""
    choices: tuple[str, ...] = ()
    is_optional: bool = False

    @property
    def option(self) -> str:
        return f"--{self.name.replace('_', '-')}"


QUESTIONS: Mapping[str, Question] = {
    question.name: question
    for question in (
        Question("base_url", "Base URL of the LLM gateway"),
        Question(
            "auth",
            "How it authenticates: none, key (one that does not expire), oauth2 (client credentials), login (JSON),"
            " other (a program, a file or a cloud identity)",
            "oauth2",
            ("none", "key", "oauth2", "login", "other"),
        ),
        Question("token_url", "URL of the token endpoint"),
        Question("client_id", "Client id"),
        Question("scope", "Scope", is_optional=True),
        Question("client_auth", "Where the secret is sent: basic or form", "basic", ("basic", "form")),
        Question("login_url", "URL of the login"),
        Question("login_body", "JSON body of the login, with {secret} in place of the secret"),
        Question("login_token", "Path of an unusual name of the token in the reply", is_optional=True),
        Question("ca_file", "PEM file with the certificate of your company's CA", is_optional=True),
        Question("proxy", "HTTP proxy for these hosts", is_optional=True),
        Question("embeddings_url", "Base URL of the embeddings, if they are at another address", is_optional=True),
        Question("rerank_url", "Base URL of rerank, if it is at another address", is_optional=True),
        Question(
            "clients",
            "Clients, separated by commas (ragflow, open_webui, librechat, dify, codex, claude_code or other names)",
            "other",
        ),
        Question(
            "listen", "Address to listen on (0.0.0.0 if clients run in containers or on other machines)", "127.0.0.1"
        ),
    )
}
SECRET = "secret"  # noqa: S105 - the name of a question
SECRETS: Mapping[str, str] = {
    "key": "API key of the LLM gateway (hidden)",
    "oauth2": "Client secret of the LLM gateway (hidden)",
    "login": "Secret of the LLM gateway (hidden)",
}
"""The question about the secret, by the way of authentication."""
OF_AUTH: Mapping[str, tuple[str, ...]] = {
    "oauth2": ("token_url", "client_id", "scope"),
    "login": ("login_url", "login_body"),
}
AFTER_A_FAULT: Mapping[str, tuple[str, ...]] = {"oauth2": ("client_auth",), "login": ("login_token",)}
"""Questions about the credential that are asked only after a fetch failed."""
OF_FAULT: Mapping[str, str] = {
    **dict.fromkeys(("dns", "connect", "timeout_connect", "proxy"), "proxy"),
    "tls": "ca_file",
}
"""The question about the network that is asked only after such a fault of a connection."""
SECRET_OPTIONS = "--secret-file / --secret-env"  # noqa: S105 - the names of two options
OF_SETTING: Mapping[str, str] = {"url": "login_url", "json": "login_body", "host": "listen", "token": SECRET}
"""The question about a setting that has another name."""
NO_ANSWER = "-"  # typed to remove an earlier answer to an optional question


def questions_about(step: Step, auth: str) -> tuple[str, ...]:
    """Return the questions whose answers decide about the failed step."""
    address = f"{step.hop.removeprefix('upstream:')}_url"
    address = address if address in QUESTIONS else "base_url"
    if network := OF_FAULT.get(step.error.removeprefix("upstream_")):
        return (address if step.what == "models" else OF_AUTH[auth][0], network)
    of_credential = (*OF_AUTH.get(auth, ()), SECRET)
    if step.what == "token":
        return (*of_credential, *AFTER_A_FAULT.get(auth, ()))
    return (address, *of_credential)


def path_in_file(path: str | Path, folder: Path) -> str:
    """Return `path` as a configuration file in `folder` names it.

    It is relative if the file is written into the current folder, where gatepass then starts, and `path` is below it.
    The folder can then be moved, or mounted into a container. Else it is absolute.
    """
    whole = Path(os.path.normpath(Path(path).expanduser().absolute()))
    return str(whole.relative_to(folder) if folder == Path.cwd() and whole.is_relative_to(folder) else whole)


def render(
    answers: Mapping[str, str], secret: str, keys: Sequence[Mapping[str, str]] = (), folder: Path = Path("/")
) -> str:
    """Return the configuration as commented YAML.

    `secret` is the reference to the secret, never its value. `folder` is that of the file. A `$` in an answer is a
    dollar, never the beginning of a reference.
    """
    from gatepass.config.block import split_query
    from gatepass.config.yaml_file import yaml_lines

    addresses = dict[str, dict[str, Any]]()
    for operation in (UPSTREAM, *ELSEWHERE):
        url, query = split_query(answers.get(f"{'base' if operation == UPSTREAM else operation}_url", ""))
        parameters = {"query": {name: value.replace("$", "$$") for name, value in query.items()}} if query else {}
        addresses[operation] = {"base_url": url.replace("$", "$$"), **parameters}
    body = answers.get("login_body", "")
    if ca_file := answers.get("ca_file"):
        answers = {**answers, "ca_file": path_in_file(ca_file, folder)}
    # not the body, whose texts are escaped after it is parsed
    answers = {**{name: answer.replace("$", "$$") for name, answer in answers.items()}, "login_body": body}
    network = {name: answers[name] for name in ("ca_file", "proxy") if answers.get(name)}
    plain = {"allow_plain_http": True} if answers.get("allow_plain_http") else {}
    upstream: dict[str, Any] = {**plain}
    if answers["auth"] not in ("none", "other"):  # the credential that follows later may have another name
        upstream["credential"] = UPSTREAM
    upstreams = {UPSTREAM: {**addresses[UPSTREAM], **upstream, "include_usage": True}}
    # one upstream for both if they are at one address
    hosts = {answers["base_url"]: UPSTREAM, "": UPSTREAM}
    operations: dict[str, Any] = {}
    for operation in ELSEWHERE:
        url = answers.get(f"{operation}_url", "")
        if hosts.setdefault(url, operation) == operation:
            upstreams[operation] = {**addresses[operation], **upstream}
        if hosts[url] != UPSTREAM:
            operations[operation] = {"upstream": hosts[url]}
    routes = {"models": {"*": {"upstream": UPSTREAM}}, "operations": operations} if operations else {}
    lines = [
        f"# Written by `gatepass init`.{documentation('docs/reference/configuration.md', ' All settings: {}')}",
        *(["# Start gatepass in the folder of this file: its paths are relative."] if folder == Path.cwd() else []),
        "",
        *yaml_lines({"server": {"host": answers.get("listen", "127.0.0.1"), "port": int(answers.get("port", 8080))}}),
    ]
    if network:
        lines += ["# For all servers that gatepass calls, and the token endpoint.", *yaml_lines({"network": network})]
    if answers["auth"] == "other":
        recipes = documentation("docs/tokens.md", " {} has the recipes.")
        lines += [
            f"# Replace these lines with your credential, and add `credential: {UPSTREAM}` to each upstream.{recipes}"
        ]
        lines += ["# credentials:", f"#   {UPSTREAM}:", "#     type: …", ""]
    elif answers["auth"] != "none":
        lines += ["# gatepass sends its token as `Authorization: Bearer …`, and keeps it valid if it can fetch one."]
        lines += yaml_lines({"credentials": {UPSTREAM: _credential(answers, secret, plain)}})
    lines += [
        "# The LLM gateway. Every model name is passed on. `include_usage` counts the tokens of streams.",
        *yaml_lines({"upstreams": upstreams, **routes}),
        "# One key for each client. A profile makes the changes that its client needs.",
        "# `gatepass keys new --name NAME` creates another key.",
        *yaml_lines({"access": {"keys": list(keys)}}),
    ]
    return "\n".join(lines)


def _credential(answers: Mapping[str, str], secret: str, plain: Mapping[str, bool]) -> dict[str, Any]:
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
            **plain,
        }
    body = _with_secret(json.loads(answers["login_body"]), secret)
    reply = {"reply": {"token": answers["login_token"]}} if answers.get("login_token") else {}
    return {"type": "http_json", "url": answers["login_url"], "json": body, **reply, **plain}


def _with_secret(node: Any, secret: str) -> Any:
    if isinstance(node, dict):
        return {name: _with_secret(value, secret) for name, value in node.items()}
    if isinstance(node, list):
        return [_with_secret(value, secret) for value in node]
    return node.replace("$", "$$").replace(PLACE, secret) if isinstance(node, str) else node


def fault_of(name: str, answer: str) -> str:
    """Return why `answer` cannot be the answer to the question `name`; empty if it can, or if doctor decides."""
    from gatepass.config.block import checked_proxy_url, checked_url

    question = QUESTIONS[name]
    if not answer:
        return "" if question.is_optional else t("is empty")
    if question.choices and answer not in question.choices:
        return t("{answer} is none of {choices}", answer=repr(answer), choices=", ".join(question.choices))
    try:
        match name:
            case "token_url" | "login_url":
                checked_url(answer)
            case "base_url" | "embeddings_url" | "rerank_url":
                return _fault_of_base_url(answer)
            case "proxy":
                checked_proxy_url(answer)
            case "login_body" if not isinstance(json.loads(answer), dict):
                return t("is not a JSON object")
            case "login_body" if PLACE not in answer:
                return t("has no {place}, where gatepass puts the secret", place=PLACE)
            case "clients":
                return _fault_of_clients(_client_names(answer))
            case "listen":
                _check_host(answer)
    except json.JSONDecodeError:
        return t("is not JSON")
    except ValueError as error:
        return "; ".join(map(t, str(error).split("; ")))
    return ""


def _check_host(answer: str) -> None:
    """Raise ValueError if gatepass cannot listen on `answer`."""
    if answer.count(":") == 1:  # more are of an IPv6 address
        raise ValueError("has a port: --port sets it")
    try:
        socket.getaddrinfo(answer, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # a label may be too long
        text = "{answer} is no address of this machine: 0.0.0.0 stands for all of them"
        raise ValueError(t(text, answer=repr(answer))) from None


def _fault_of_base_url(answer: str) -> str:
    from gatepass.config.block import SECRET_NAME, checked_base_url, split_query
    from gatepass.config.checks import ENDS_IN_OPERATION, OPERATION_AT_END

    url, query = split_query(answer)
    if found := OPERATION_AT_END.search(checked_base_url(url).lower()):
        return t(ENDS_IN_OPERATION, path=found[0])
    # no file that `init` writes has a secret
    secret = next(filter(SECRET_NAME.search, query), "")
    how = "holds the secret {secret}: leave it out, and add query: {{{secret}: ${{NAME}}}} to the upstream in the file"
    return t(how, secret=secret) if secret else ""


def _fault_of_clients(names: list[str]) -> str:
    from gatepass.config.block import NAME

    if wrong := next((each for each in names if not re.fullmatch(NAME, each)), None):
        return t("names {wrong}: use letters, digits, dots, underscores and hyphens", wrong=repr(wrong))
    return "" if names else t("names no client")


def _proxy_of_shell() -> str:
    """Return HTTPS_PROXY, "" if it is no answer, or has a password, which the prompt would show."""
    found = os.environ.get("https_proxy") or os.environ.get("HTTPS_PROXY") or ""
    return "" if "@" in found or fault_of("proxy", found) else found


def _client_names(text: str) -> list[str]:
    from gatepass.config.access import profile_name

    names = (each.strip() for each in text.split(","))  # a name with a blank may be a client's, but not a key's
    return list(dict.fromkeys(profile_name(each) if " " in each else each for each in names if each))


def _asked(option: str, ask: Callable[..., Any], text: str, **options: Any) -> Any:
    """Return the answer to `text`. Exit with 2 if the input has ended, as it has without a terminal."""
    try:
        return ask(text, **options)
    except click.Abort:
        if sys.stdin.isatty():  # Ctrl+C
            raise
        text = (
            "{option}: has no answer, and the input has ended: pass it, or run the command in a terminal."
            " With --yes, all optional questions have their default."
        )
        exit_unusable("\n" + t(text, option=option))


@dataclass
class Setup:
    """The answers so far. Options come first; the terminal is asked for the rest."""

    answers: dict[str, str]
    is_interactive: bool
    secret: str = field(default="", repr=False)
    secret_reference: str = ""
    """The reference that an option gave: `${file:…}` or `${NAME}`. Empty: gatepass writes a file."""

    def ask(self, name: str, *, again: bool = False) -> None:
        """Set the answer to the question `name`, unless it is known. `again` asks with the old answer as default."""
        if name == SECRET:
            self._ask_secret(again=again)
            return
        question, known = QUESTIONS[name], self.answers.get(name)
        if known is not None and not again:
            if fault := fault_of(name, known):
                exit_unusable(f"{question.option}: {fault}")
            return
        if not self.is_interactive:
            if not question.default and not question.is_optional:
                needed = {name: None, **dict.fromkeys(OF_AUTH.get(self.answers.get("auth", ""), ()))}
                asked = (QUESTIONS[one] for one in needed if one not in self.answers)
                missing = ", ".join(one.option for one in asked if not one.is_optional)
                exit_unusable(t("{option}: missing, and --yes asks no question", option=missing))
            self.answers[name] = question.default
            if question.default:
                click.echo(t("Assumed {option} {answer}", option=question.option, answer=question.default))
            return
        default = known if known is not None else question.default or (_proxy_of_shell() if name == "proxy" else "")
        hint = t(" (-: none)" if default else " (empty: none)") if question.is_optional else ""
        while True:
            text = t(question.text) + hint
            answer = _asked(question.option, click.prompt, text, default=default, show_default=bool(default)).strip()
            answer = re.sub(r"[\s_-]", "", answer).lower() if question.choices else answer
            self.answers[name] = "" if question.is_optional and answer == NO_ANSWER else answer
            if not (fault := fault_of(name, self.answers[name])):
                return
            click.echo(t("The answer {fault}.", fault=fault))

    def _ask_secret(self, *, again: bool) -> None:
        if self.answers["auth"] in ("none", "other") or self.secret_reference:
            return
        if not self.is_interactive:
            exit_unusable(t("{option}: missing, and --yes asks no question", option=SECRET_OPTIONS))
        text = t(SECRETS[self.answers["auth"]]) + (t(", empty: unchanged") if again else "")
        ask = partial(_asked, SECRET_OPTIONS, click.prompt, text, hide_input=True, show_default=False)
        while not (answer := ask(default="") or self.secret):
            click.echo(t("The answer is empty. What you enter or paste is not shown."))
        self.secret = answer

    def doubtful(self, path: Path) -> Sequence[str]:
        """Run doctor on the written file, and return the questions about what failed; empty if nothing did."""
        from gatepass.cli.steps import diagnose
        from gatepass.config.load import load

        report = SetupReport(as_json=False)
        asyncio.run(report.show(partial(diagnose, load(str(path), os.environ).config)))
        failed = next((step for step in report.steps if step.failed), None)
        return () if failed is None else questions_about(failed, self.answers["auth"])

    def ask_until_valid(self, path: Path, keys: Sequence[Mapping[str, str]]) -> None:
        """Ask again about what `gatepass check` would refuse in the file. Exit with 2 if nobody answers."""
        while problems := self._problems(path, keys):
            asked = list[str]()
            for at, text in problems:
                click.echo(printable(f"{dotted(at)}: {text}"), err=True)
                setting = f"{at[1]}_url" if at[-1:] == ("base_url",) and at[1] in ELSEWHERE else str(at[-1])
                asked += [name for name in (OF_SETTING.get(setting, setting),) if name in (*QUESTIONS, SECRET)]
            ask, plain = partial(_asked, "--allow-plain-http", click.confirm), "allow_plain_http" in str(problems)
            question = "Send the secret and the token over the network in plain text?"
            if self.is_interactive and plain and ask(t(question), default=False):
                self.answers["allow_plain_http"] = "true"
            elif self.is_interactive and asked and click.confirm(t("Answer again?"), default=True):
                for name in dict.fromkeys(asked):
                    self.ask(name, again=True)
            else:
                exit_unusable(t("gatepass would not accept this configuration: it was not written."))

    def _problems(self, path: Path, keys: Sequence[Mapping[str, str]]) -> list[tuple[SettingPath, str]]:
        from gatepass.config.document import ConfigError
        from gatepass.config.load import load

        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / path.name
            # the secret is in no file yet
            reference, environment = self.secret_reference or f"${{{SECRET}}}", {**os.environ, SECRET: self.secret}
            file.write_text(render(self.answers, reference, keys, path.parent), "utf-8")
            try:
                load(str(file), environment)
            except ConfigError as error:
                return [(problem.path, problem.text) for problem in error.problems]
        return []

    def write(self, path: Path, secret_file: Path, keys: Sequence[Mapping[str, str]]) -> str:
        """Write the configuration and the file of a typed secret, or neither. Return the path of the latter, or ""."""
        from gatepass.config.references import replace_file

        secret_path = path_in_file(secret_file, path.parent)
        if self.secret and secret_file.exists() and not (path.exists() and f"/{UPSTREAM}}}" in path.read_text("utf-8")):
            text = "{file}: exists, and another file may use it: move it, or use --secret-file"
            exit_unusable(t(text, file=secret_file))
        self.ask_until_valid(path, keys)
        text = render(self.answers, self.secret_reference or f"${{file:{secret_path}}}", keys, path.parent)
        try:
            if self.secret:
                secret_file.parent.mkdir(mode=0o700, exist_ok=True)
                replace_file(secret_file, self.secret)
            # the umask decides who may read a new file, and the operator may have restricted an old one
            replace_file(path, text, mode=0o666 & (path.stat().st_mode if path.exists() else 0o666))
        except OSError as error:
            if self.secret:
                secret_file.unlink(missing_ok=True)
            exit_unusable(t("{file}: cannot be written", file=path) + f": {error.strerror}")
        return secret_path if self.secret else ""


class SetupReport(Report):
    """Advises to test again in place of what only a running gatepass needs."""

    def add(self, step: Step) -> None:
        here = {"secret_reread": ("", ""), "after_repair": ("", "")}
        here |= dict.fromkeys(("apply_url", "apply_key", "apply"), ("test again", "重新检测"))
        for part, texts in here.items():
            for member, text in zip(("action", "action_zh"), texts, strict=True):
                name, given = member.replace("action", "advice"), filled(part, member, {"credential": UPSTREAM})
                step = structs.replace(step, **{name: getattr(step, name).replace(given, text)})
        super().add(step)


def _options(command: Callable[..., None]) -> Callable[..., None]:
    for question in reversed(list(QUESTIONS.values())):  # decorators apply from the last to the first
        kind = click.Choice(question.choices, case_sensitive=False) if question.choices else None
        text = f"{question.text}.{f' Default: {question.default}.' if question.default else ''}"
        command = click.option(question.option, question.name, help=text, type=kind)(command)
    return command


@click.command()
@click.option("--output", default="gatepass.yaml", show_default=True, help="The file to write.")
@_options
@click.option("--port", type=click.IntRange(1, 65535), default=8080, show_default=True, help="Port to listen on.")
@click.option("--secret-file", help="File with the secret or key. gatepass reads it again when it changes.")
@click.option("--secret-env", help="Environment variable with the secret or key.")
@click.option("--allow-plain-http", is_flag=True, help="Allow plain HTTP to other machines. Others can read the token.")
@click.option("--yes", is_flag=True, help="Ask no question: take the defaults of all optional ones.")
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
    """Write a configuration: ask for the LLM gateway, its token and the clients, and test every hop of the result.

    Answers come from the options, then from you. A secret that you type goes into a file that only you can read,
    never into the configuration. With the image, GATEPASS_HOST is the address to listen on.

    Exit codes: 0 written, 1 written and a hop failed, 2 invalid command line or answers.
    """
    from gatepass.config.access import profile_name

    path, ask = Path(output).absolute(), partial(_asked, "--force", click.confirm, default=False)
    if path.exists() and not force and (yes or not ask(t("{file} exists. Overwrite it?", file=output))):
        exit_unusable(t("{file} exists: nothing was written. --force overwrites it.", file=output))
    if path.is_dir() or not os.access(path.parent, os.W_OK):  # before any question is asked
        exit_unusable(t("{file}: cannot be written", file=f"--output: {path}"))
    logging.getLogger("gatepass").addHandler(logging.NullHandler())  # keeps log lines out of the answers
    if secret_env and secret_env not in os.environ:
        text = "--secret-env: the environment variable {name} is not set: nothing was written"
        exit_unusable(t(text, name=secret_env))
    answers = {name: value for name, value in given.items() if value is not None} | {"port": str(port)}
    if allow_plain_http:
        answers["allow_plain_http"] = "true"
    if host := os.environ.get("GATEPASS_HOST"):
        answers.setdefault("listen", host)  # it overrides the file
    file_reference = f"${{file:{path_in_file(secret_file, path.parent)}}}" if secret_file else ""
    setup = Setup(answers, not yes, secret_reference=f"${{{secret_env}}}" if secret_env else file_reference)
    setup.ask("base_url")
    setup.ask("auth")
    others = (f"{operation}_url" for operation in ELSEWHERE)
    of_auth = (*OF_AUTH.get(answers["auth"], ()), SECRET)
    for name in (*of_auth, *others, "clients", "listen", *sorted(QUESTIONS.keys() & answers)):
        setup.ask(name)
    keys = _new_keys(answers["clients"])
    entries, typed = [entry for entry, _ in keys], path.parent / "secrets" / UPSTREAM
    secret_path = setup.write(path, typed, entries)
    option = f" --config {shlex.quote(output)}" * (path != Path("gatepass.yaml").absolute())
    try:
        while answers["auth"] != "other" and (doubtful := setup.doubtful(path)):
            if yes or not click.confirm(t("Answer again?"), default=True):
                text = "{file} is written. Correct what failed, and run `gatepass doctor{option}`."
                click.echo(t(text, file=output, option=option), err=True)
                sys.exit(CHECK_FAILED)
            for name in doubtful:
                setup.ask(name, again=True)
            secret_path = setup.write(path, typed, entries)
    finally:  # also after a fault or Ctrl+C: the file has only the hashes of the keys
        # all interfaces are no host to connect to
        host = "HOST" if answers["listen"] in ("0.0.0.0", "::") else answers["listen"]  # noqa: S104 - compared, not bound
        url = f"http://{host}:{port}"
        place = t(" HOST is the name or address of this machine.") if url.startswith("http://HOST:") else ""
        wrote = t(" and ").join(filter(None, (output, secret_path)))
        click.echo("\n" + t("Wrote {files}.", files=wrote) + place + t(" Each key is shown only now:") + "\n")
        for entry, value in keys:
            name = profile_name(entry["name"])
            page = documentation(f"docs/clients/{name}.md", ", see {}")
            version = "" if name == "claude_code" else "/v1"
            click.echo(f"  {entry['name']}{page}\n    base URL: {url}{version}\n    API key:  {value}\n")
    if answers["auth"] == "other":
        click.echo(t("First add your credential to {file}, and name it under each upstream.", file=output))
    command = f'curl {url}/v1/models -H "Authorization: Bearer KEY"'
    text = "Next: `gatepass serve{option}` serves. `{command}` then lists the names of the models."
    click.echo(t(text, option=option, command=command))


def _new_keys(clients: str) -> list[tuple[dict[str, str], str]]:
    """Return the entry and the value of a new key for each client."""
    from gatepass.auth.api_keys import new_key
    from gatepass.config.access import BUILT_IN_PROFILES, PLAIN, profile_name

    found = []
    for name in _client_names(clients):
        value, key_hash = new_key()
        # the file has no line without an effect
        profile = {"profile": known} if BUILT_IN_PROFILES.get(known := profile_name(name), PLAIN) != PLAIN else {}
        found.append(({"name": name, **profile, "hash": key_hash}, value))
    return found
