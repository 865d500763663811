"""`gatepass doctor`: test every hop of the configuration, and report the one that fails, why, and what to do.

A step reports only what it has seen: a public model list does not prove that the upstream accepts the token.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack, aclosing
from dataclasses import replace
from textwrap import wrap
from typing import TYPE_CHECKING

import click

from gatepass.cli import options
from gatepass.errors import CallerError

if TYPE_CHECKING:
    from gatepass.cli.reach import Step, Steps

NOTHING_PROVEN = 4
NOTHING = f"nothing failed, and nothing was proven: exit code {NOTHING_PROVEN}"
NOT_CALLED = "no model was called: `gatepass doctor MODEL --call` sends a small real call, which may be billed"
NOT_WITH_URL = "{option} names an entry or a file of this machine: leave it out with --url."
NO_MODEL_OF_HOST = "--as requires a model, as in `gatepass doctor MODEL --as codex`."
NOT_WITH_MCP = "--mcp tests one MCP server of this configuration: leave out MODEL, --call, --as and --url."
COLOURS: Mapping[str, str] = {"ok": "green", "FAIL": "red", "????": "yellow"}


class _AgentHost(click.Choice[str]):
    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return super().convert(value.replace("_", "-"), param, ctx)  # a key is called claude_code

    def get_invalid_choice_message(self, value: object, ctx: click.Context | None) -> str:
        message = super().get_invalid_choice_message(value, ctx)
        return f"{message} For another client: gatepass doctor --url BASE_URL MODEL --call"


@click.command()
@click.argument("model", required=False)
@options.config_option
@click.option("--call", is_flag=True, help="Also send one small real call per operation. It may be billed.")
@click.option(
    "--key", "caller", metavar="NAME", help="With --call, --as or --mcp: the caller, as access.keys names it."
)
@click.option(
    "--operation",
    type=click.Choice(options.CALL_OPERATIONS),
    help="With --call: the operation. Default: as the model is declared, else by its name.",
)
@click.option(
    "--as",
    "agent_host",
    type=_AgentHost(options.AGENT_HOSTS),
    help="Send the request of this program to MODEL, which may be billed. If it works, print what to set in it."
    " Without --call and --url.",
)
@click.option("--mcp", metavar="NAME", help="Test this MCP server alone, and print what to set in its clients.")
@click.option("--url", metavar="BASE_URL", help="Test a running gatepass from here, by its base URL and a key.")
@click.option("--key-stdin", is_flag=True, help="With --url: read the API key from standard input.")
@options.json_option
def doctor(
    model: str | None,
    path: str | None,
    url: str | None,
    caller: str | None,
    operation: str | None,
    agent_host: str | None,
    mcp: str | None,
    *,
    call: bool,
    key_stdin: bool,
    as_json: bool,
) -> None:
    """Test every hop (DNS, TCP, proxy, TLS, token and model list), and print the remedy for each one that fails. A
    credential without a token in the gatepass that runs with this configuration fails too.

    --as sends the request of Codex or Claude Code to the upstream, without the running gatepass. With --key, it first
    checks the request as one of this caller.

    An MCP server is asked for its revision and its tools; no tool is called.

    With MODEL, only the upstreams on the route of that model are tested. Without --call, no model is called and
    nothing is billed.

    --url tests a running gatepass as a client sees it. The API key comes from GATEPASS_KEY, from --key-stdin, or from
    a prompt.

    Exit codes: 0 nothing failed, 1 a step failed, 2 the configuration is not valid, 4 nothing was proven.
    """
    refused = {
        NOT_WITH_MCP: mcp is not None and (model is not None or call or agent_host is not None or url is not None),
        "--key requires --call, --as or --mcp.": caller is not None and not (call or agent_host or mcp),
        "--operation requires --call.": operation is not None and not call,
        NO_MODEL_OF_HOST: agent_host is not None and model is None,
        "--as sends its own call: leave out --call.": agent_host is not None and call,
        NOT_WITH_URL.format(option="--key"): url is not None and caller is not None,
        NOT_WITH_URL.format(option="--config"): url is not None and path is not None,
        "--as sends the request with this configuration: leave it out with --url.": url is not None
        and agent_host is not None,
    }
    for problem, applies in refused.items():
        if applies:
            raise click.UsageError(problem)
    logging.getLogger("gatepass").addHandler(logging.NullHandler())  # keeps log lines out of the findings
    if url is not None:
        from gatepass.cli.remote import diagnose_url
        from gatepass.config.block import checked_base_url

        try:
            checked_base_url(url)
        except ValueError:
            options.exit_unusable(f"{url!r} is not the base URL of a gatepass: expects http://HOST:PORT/v1")
        report = Report(as_json=as_json)
        key = _remote_key(from_stdin=key_stdin)
        found = diagnose_url(url.rstrip("/"), key, report.begin, model, operation, call=call)
        asyncio.run(report.show(found))
        sys.exit(report.finish())
    from gatepass.cli import steps
    from gatepass.cli.reach import Step, StepOutcome
    from gatepass.config.environment import SOURCE, with_variables

    loaded = options.load_or_exit(path)
    # the GATEPASS_ variable follows each setting that it sets
    report, settings = Report(as_json=as_json, wording=with_variables if loaded.source == SOURCE else str), ""
    try:
        allowed = options.find_key(loaded.config, caller)
        calls = steps.calls_of(loaded.config, model, operation, allowed) if call else []
        if agent_host is not None and model is not None:
            calls, settings = steps.calls_of_host(loaded.config, agent_host, model, allowed)
            model = None  # its other operations are not tested
        if mcp is not None:
            settings = steps.settings_of_mcp(loaded.config, mcp, allowed)
        valid = f"{loaded.source} is valid: {options.summary(loaded.config)}"
        report.add(Step("gatepass", "configuration", StepOutcome.WORKS, valid, proves=False))
        asyncio.run(report.show(steps.diagnose(loaded.config, calls, model=model, mcp=mcp, begin=report.begin)))
        for step in steps.steps_of_running(loaded, report.steps):
            report.add(step)
        if not report.has_failed:
            report.settings = settings
        sys.exit(report.finish())
    except steps.NoCall as error:
        options.exit_unusable(str(error))
    except CallerError as error:
        if as_json:
            named = {"status": error.status, "code": error.code, "message": error.message}
            report.print_json(options.CHECK_FAILED, refused=named)
        else:
            click.echo(f"refused: {error.status} {error.code}: {error.message}")
        sys.exit(options.CHECK_FAILED)


KEY = "GATEPASS_KEY"


def _remote_key(*, from_stdin: bool) -> str | None:
    """Return the API key for --url from standard input, the environment or a prompt; None for no key."""
    # no option holds the key, because every user of the machine can see the arguments of a process
    key = os.environ.get(KEY, "")
    if from_stdin:
        key = sys.stdin.readline()
    elif not key and sys.stdin.isatty():
        key = click.prompt("API key (empty for none)", default="", show_default=False, hide_input=True, err=True)
    key = key.strip()
    if not (key.isascii() and key.isprintable()):
        options.exit_unusable("the API key contains characters beyond ASCII or a line break")
    return key or None


class Report:
    """Prints each step when it ends, or one JSON document at the end, and the progress of a step on a terminal.

    `wording` changes the texts of each step.
    """

    def __init__(self, *, as_json: bool, wording: Callable[[str], str] = str) -> None:
        self._as_json = as_json
        self._wording = wording
        self.steps: list[Step] = []
        self.settings = ""
        """Printed at the end."""
        self._progress = ExitStack()

    def begin(self, hop: str, what: str) -> None:
        self._progress.close()
        self._progress.enter_context(options.progress(f"{hop} {what}"))

    def add(self, step: Step) -> None:
        why, advice = self._wording(step.why), self._wording(step.advice)
        step = replace(step, why=options.printable(why), advice=options.printable(advice))
        self._progress.close()
        self.steps.append(step)
        if self._as_json:
            return
        line = line_of(step)
        if sys.stdout.isatty():  # elsewhere each step stays one line, for grep
            width = shutil.get_terminal_size().columns
            line = "\n".join(
                wrap(line, width, subsequent_indent=" " * 5, break_long_words=False, break_on_hyphens=False)
            )
        if colour := COLOURS.get(step.outcome.value):
            line = options.coloured(step.outcome.value, colour) + line.removeprefix(step.outcome.value)
        click.echo(line)

    async def show(self, steps: Steps, is_shown: Callable[[Step], bool] = lambda _: True) -> None:
        from gatepass.cli.reach import timed

        # closed at once, also after an exception, because the generator owns connections
        with self._progress:
            async with aclosing(timed(steps)) as taken:
                async for step in taken:
                    if is_shown(step):
                        self.add(step)

    @property
    def has_failed(self) -> bool:
        return any(step.failed for step in self.steps)

    def finish(self) -> int:
        """Print the result and return the exit code."""
        from gatepass.cli.reach import StepOutcome

        is_proven = any(step.outcome is StepOutcome.WORKS and step.proves for step in self.steps)
        # a script must not take a run that proved nothing for a success
        code = options.CHECK_FAILED if self.has_failed else 0 if is_proven else NOTHING_PROVEN
        if self._as_json:
            self.print_json(code, **({"settings": self.settings} if self.settings else {}))
            return code
        if code == NOTHING_PROVEN:
            click.echo(NOTHING, err=True)
        whats = {step.what for step in self.steps}
        if code == 0 and "models" in whats and not whats & {"call", "stream"}:
            click.echo(NOT_CALLED, err=True)
        if self.settings:
            click.echo(f"\n{self.settings}", nl=False)
        return code

    def print_json(self, code: int, **more: object) -> None:
        failed = [f"{step.hop} {step.what}" for step in self.steps if step.failed]
        document = {"exit_code": code, "failed": failed, **more, "steps": [step.described() for step in self.steps]}
        options.print_json(document)


def line_of(step: Step) -> str:
    from gatepass.dialects.hints import sentence

    text = f"{sentence(step.why)} {step.advice}" if step.advice else step.why
    # a shorter time would be shown as 0.00 s
    took = f" ({step.seconds:.2f} s)" if step.seconds >= 0.005 else ""
    return f"{step.outcome:<4} {step.hop} {step.what}: {text}{took}"
