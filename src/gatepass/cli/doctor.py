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
from functools import partial
from textwrap import wrap
from typing import TYPE_CHECKING

import click
from msgspec.structs import replace

from gatepass.cli import options
from gatepass.documents import Step, StepOutcome
from gatepass.errors import CallerError, sentence

if TYPE_CHECKING:
    from gatepass.cli.probe import Steps

NOTHING_PROVEN = 4
NOTHING = f"nothing failed, and nothing was proven: exit code {NOTHING_PROVEN}"
NOT_CALLED = "no model was called: `gatepass doctor MODEL --call` sends a small real call, which may be billed"
MARKS: Mapping[str, tuple[str, str]] = {
    "works": ("ok  ", "green"),
    "fails": ("FAIL", "red"),
    "unproven": ("????", "yellow"),
    "skipped": ("skip", ""),
}
"""How an outcome is printed, and its colour."""


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
    from gatepass.cli.probe import found

    loaded = options.load_or_exit(path)
    report = Report(as_json=as_json)
    try:
        calls = steps.calls_of(loaded.config, model, operation) if call else []
        config = loaded.config
        source = {"file": loaded.source, "file_zh": f"{loaded.source} "}
        if loaded.source == "environment":
            source = {"file": "the environment", "file_zh": "环境变量的配置"}
        texts = {**source, "summary": options.summary(config), "summary_zh": options.summary_zh(config)}
        report.add(replace(found("gatepass", "configuration", StepOutcome.WORKS, "file_valid", **texts), proves=False))
        diagnosed = partial(steps.diagnose, loaded.config, calls, model=model, operation=operation)
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
    """Prints each step when it ends, or one JSON document at the end, and the progress of a step on a terminal."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self.steps: list[Step] = []
        self._progress = ExitStack()

    def begin(self, hop: str, what: str) -> None:
        self._progress.close()
        self._progress.enter_context(options.progress(f"{hop} {what}"))

    def add(self, step: Step) -> None:
        texts = {name: getattr(step, name) for name in ("why", "advice", "why_zh", "advice_zh")}
        step = replace(step, **{name: options.printable(text) for name, text in texts.items()})
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
        mark, colour = MARKS[step.outcome]
        click.echo(options.coloured(mark, colour) + line.removeprefix(mark) if colour else line)

    async def show(self, steps: Callable[..., Steps]) -> None:
        from gatepass.cli.probe import timed

        # closed at once, also after an exception, because the generator owns connections
        with self._progress:
            async with aclosing(timed(steps, self.begin)) as taken:
                async for step in taken:
                    self.add(step)

    def finish(self) -> int:
        """Print the result and return the exit code."""
        has_failed = any(step.failed for step in self.steps)
        is_proven = any(step.outcome is StepOutcome.WORKS and step.proves for step in self.steps)
        # a script must not take a run that proved nothing for a success
        code = options.CHECK_FAILED if has_failed else 0 if is_proven else NOTHING_PROVEN
        if self._as_json:
            self.print_json(code)
            return code
        if code == NOTHING_PROVEN:
            click.echo(options.translated(NOTHING), err=True)
        whats = {step.what for step in self.steps}
        if code == 0 and "models" in whats and not whats & {"call", "stream"}:
            click.echo(options.translated(NOT_CALLED), err=True)
        return code

    def print_json(self, code: int, **more: object) -> None:
        failed = [f"{step.hop} {step.what}" for step in self.steps if step.failed]
        options.print_json({"exit_code": code, "failed": failed, **more, "steps": self.steps})


def text_of(step: Step) -> str:
    """Return why and what to do. A Chinese reader also gets the reason in the words of the other side."""
    if not options.is_chinese():
        return f"{sentence(step.why)} {step.advice}" if step.advice else step.why
    if step.error:
        return f"{step.why_zh}{f'处理：{step.advice_zh}' if step.advice_zh else ''}原文：{step.why}"
    return f"{step.why_zh}。{step.advice_zh}" if step.advice_zh else step.why_zh


def line_of(step: Step) -> str:
    text = text_of(step)
    # a shorter time would be shown as 0.00 s
    took = f" ({step.seconds:.2f} s)" if step.seconds >= 0.005 else ""
    return f"{MARKS[step.outcome][0]} {step.hop} {step.what}: {text}{took}"
