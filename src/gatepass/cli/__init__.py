"""`gatepass`: the command line. Each command is a module that is imported only when it is called.

COMMANDS lists all commands with their one-line help. Nothing may import this package but `__main__`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import click

from gatepass import __version__
from gatepass.cli.options import CommandGroup


@dataclass(frozen=True, slots=True)
class CommandEntry:
    """The module that defines a command, and its line in the overview."""

    module: str
    summary: str


COMMANDS: Mapping[str, CommandEntry] = {
    "init": CommandEntry("gatepass.cli.init", "Write a configuration: ask, create keys, test every hop."),
    "serve": CommandEntry("gatepass.cli.serve", "Serve the OpenAI API in front of the configured upstreams."),
    "check": CommandEntry("gatepass.cli.check", "Validate the configuration and show its effective values."),
    "doctor": CommandEntry("gatepass.cli.doctor", "Test every hop, and print the remedy for a failure."),
    "token": CommandEntry("gatepass.cli.token", "Fetch a token and describe it."),
    "reload": CommandEntry("gatepass.cli.control", "Reload the configuration of the running gatepass."),
    "status": CommandEntry("gatepass.cli.control", "Show the running gatepass: its tokens and its load."),
    "limits": CommandEntry("gatepass.cli.control", "Show how much of each limit the running gatepass has used."),
    "learned": CommandEntry("gatepass.cli.control", "List the rules that a running gatepass learned from errors."),
    "tail": CommandEntry("gatepass.cli.requests", "Show the requests of the running gatepass as they end."),
    "show": CommandEntry("gatepass.cli.requests", "Show what happened to one request, by the id in its error."),
    "capture": CommandEntry("gatepass.cli.capture", "Keep the bodies of chosen requests in memory for some minutes."),
    "keys": CommandEntry("gatepass.cli.keys", "Create and list the API keys of clients."),
    "healthcheck": CommandEntry("gatepass.cli.healthcheck", "Check whether gatepass on this machine is alive."),
}


class Commands(CommandGroup):
    """A group that imports a command only when it is called."""

    def __init__(self, entries: Mapping[str, CommandEntry] = COMMANDS, **options: Any) -> None:
        super().__init__(**options)
        self._entries = entries

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(self._entries)  # in the order of use; click would sort them

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        entry = self._entries.get(cmd_name)
        if entry is None:
            return None
        command = getattr(import_module(entry.module), cmd_name)
        assert isinstance(command, click.Command)  # noqa: S101 - an error in COMMANDS
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in self._entries.items()])


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gatepass")
def main() -> None:
    """One URL that keeps working, for clients with a static key, in front of an LLM gateway with short-lived tokens.

    Exit codes: 0 success, 1 a check failed, 2 invalid configuration or usage, 3 cannot bind, 4 nothing was proven.
    """
