import io
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import click
import pytest
from click.testing import CliRunner

from gatepass.cli import main
from gatepass.cli.options import coloured, progress


def commands(group: click.Group, context: click.Context) -> Iterator[click.Command]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield command
        if isinstance(command, click.Group):
            yield from commands(command, context)


def test_every_option_that_is_shown_has_a_sentence():
    for command in commands(main, click.Context(main)):
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                assert re.match(r"\w.*\.$", parameter.help or "", re.DOTALL), (command.name, parameter.opts)


def test_a_colour_is_left_out_with_no_color(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert coloured("FAIL", "red") == "\x1b[31mFAIL\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert coloured("FAIL", "red") == "FAIL"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "shown"), [(Terminal, True), (io.StringIO, False)])
def test_a_wait_is_shown_on_a_terminal_only_and_then_cleared(monkeypatch, stream, shown):
    written = stream()
    monkeypatch.setattr("sys.stderr", written)
    with progress("sso.example"):
        assert written.getvalue() == "waiting for sso.example" * shown
    assert written.getvalue() == "waiting for sso.example\r\x1b[K" * shown


@pytest.mark.parametrize("command", ["status", "reload", "keys list --running"])
def test_a_command_shows_that_it_waits_for_the_running_gatepass(monkeypatch, tmp_path, command):
    path = str(tmp_path / "control.sock")
    waits = []

    def noted(waits_for: str) -> AbstractContextManager[None]:
        waits.append(waits_for)
        return nullcontext()

    monkeypatch.setattr("gatepass.cli.control.progress", noted)
    result = CliRunner().invoke(main, [*command.split(), "--socket", path])
    assert (result.exit_code, waits) == (1, [f"the gatepass at {path}"])
