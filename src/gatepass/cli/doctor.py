"""`gatepass doctor`: test every hop of the configuration, and report the one that fails, why, and what to do.

A step reports only what it has seen: a public model list does not prove that the upstream accepts the token.
"""

from __future__ import annotations

import asyncio
import logging
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
    from gatepass.cli.probe import Step, Steps

NOTHING_PROVEN = 4
NOTHING = f"nothing failed, and nothing was proven: exit code {NOTHING_PROVEN}"
NOT_CALLED = "no model was called: `gatepass doctor MODEL --call` sends a small real call, which may be billed"
COLOURS: Mapping[str, str] = {"ok": "green", "FAIL": "red", "????": "yellow"}


@click.command()
@click.argument("model", required=False)
@options.config_option
@click.option("--call", is_flag=True, help="Also send one small real call per operation. It may be billed.")
@click.option(
    "--operation",
    type=click.Choice(options.CALL_OPERATIONS),
    help="With --call: the operation. Default: as the model is declared, else of the list that has it.",
)
@options.json_option
def doctor(model: str | None, path: str | None, operation: str | None, *, call: bool, as_json: bool) -> None:
    """Test each token, model list and MCP server, and print the remedy for each failure.

    An MCP server is asked for its handshake and its tools; no tool is called. With MODEL, only the upstreams on the
    route of that model are tested. Without --call, no model is called and nothing is billed.

    Exit codes: 0 nothing failed, 1 a step failed, 2 the configuration is not valid, 4 nothing was proven.
    """
    if operation is not None and not call:
        raise click.UsageError("--operation requires --call.")
    logging.getLogger("gatepass").addHandler(logging.NullHandler())  # keeps log lines out of the findings
    from gatepass.cli import steps
    from gatepass.cli.probe import Step, StepOutcome
    from gatepass.config.environment import SOURCE, with_variables

    loaded = options.load_or_exit(path)
    # the GATEPASS_ variable follows each setting that it sets
    report = Report(as_json=as_json, wording=with_variables if loaded.source == SOURCE else str)
    try:
        calls = steps.calls_of(loaded.config, model, operation) if call else []
        valid = f"{loaded.source} is valid: {options.summary(loaded.config)}"
        report.add(Step("gatepass", "configuration", StepOutcome.WORKS, valid, proves=False))
        diagnosed = steps.diagnose(loaded.config, calls, model=model, operation=operation, begin=report.begin)
        asyncio.run(report.show(diagnosed))
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


class Report:
    """Prints each step when it ends, or one JSON document at the end, and the progress of a step on a terminal.

    `wording` changes the texts of each step.
    """

    def __init__(self, *, as_json: bool, wording: Callable[[str], str] = str) -> None:
        self._as_json = as_json
        self._wording = wording
        self.steps: list[Step] = []
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

    async def show(self, steps: Steps) -> None:
        from gatepass.cli.probe import timed

        # closed at once, also after an exception, because the generator owns connections
        with self._progress:
            async with aclosing(timed(steps)) as taken:
                async for step in taken:
                    self.add(step)

    @property
    def has_failed(self) -> bool:
        return any(step.failed for step in self.steps)

    def finish(self) -> int:
        """Print the result and return the exit code."""
        from gatepass.cli.probe import StepOutcome

        is_proven = any(step.outcome is StepOutcome.WORKS and step.proves for step in self.steps)
        # a script must not take a run that proved nothing for a success
        code = options.CHECK_FAILED if self.has_failed else 0 if is_proven else NOTHING_PROVEN
        if self._as_json:
            self.print_json(code)
            return code
        if code == NOTHING_PROVEN:
            click.echo(NOTHING, err=True)
        whats = {step.what for step in self.steps}
        if code == 0 and "models" in whats and not whats & {"call", "stream"}:
            click.echo(NOT_CALLED, err=True)
        return code

    def print_json(self, code: int, **more: object) -> None:
        failed = [f"{step.hop} {step.what}" for step in self.steps if step.failed]
        document = {"exit_code": code, "failed": failed, **more, "steps": [step.described() for step in self.steps]}
        options.print_json(document)


def line_of(step: Step) -> str:
    from gatepass.errors import sentence

    advice = step.advice
    if step.action is not None and options.is_chinese():
        advice = f"{step.action['sentence_zh']}处理：{step.action['action_zh']}"
    text = f"{sentence(step.why)} {advice}" if advice else step.why
    # a shorter time would be shown as 0.00 s
    took = f" ({step.seconds:.2f} s)" if step.seconds >= 0.005 else ""
    return f"{step.outcome:<4} {step.hop} {step.what}: {text}{took}"
