"""What commands share: options with one sentence everywhere, the colour of an outcome, the progress of a wait.

click leaves colours out if the output is not a terminal.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import click

config_option = click.option(
    "--config", "path", metavar="FILE", help="Configuration file. Default: GATEPASS_CONFIG, else ./gatepass.yaml."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

TICK_S = 1.0


def coloured(text: str, colour: str) -> str:
    """Return `text` in `colour`, unless the environment has NO_COLOR (no-color.org)."""
    return text if os.environ.get("NO_COLOR") else click.style(text, fg=colour)


def print_json(document: object) -> None:
    """Print the one document of `--json`, in ASCII: the text of a server cannot control the terminal."""
    click.echo(json.dumps(document, indent=2))


def printable(text: object, keep: str = "") -> str:
    """Replace control characters and line breaks, except those in `keep`.

    The message of a server could otherwise control the terminal, or look like a line of the command.
    """
    return "".join(char if char.isprintable() or char in keep else " " if char.isspace() else "�" for char in str(text))


@contextmanager
def progress(waits_for: str) -> Iterator[None]:
    """Show on a terminal how long the wait in the block takes, as soon as it takes longer than a second."""
    if not sys.stderr.isatty():
        yield
        return
    has_ended = threading.Event()

    def show() -> None:
        seconds = 0
        while not has_ended.wait(TICK_S):
            seconds += 1
            click.echo(f"\rwaiting for {waits_for}: {seconds} s", nl=False, err=True)
        if seconds:
            click.echo("\r\x1b[K", nl=False, err=True)  # clears the line

    showing = threading.Thread(target=show, daemon=True)  # a thread, because the wait blocks this one
    showing.start()
    try:
        yield
    finally:
        has_ended.set()
        showing.join()
