"""`gatepass status`: show the running gatepass, one line for each process and each credential."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from gatepass.cli.control import control_option, request
from gatepass.cli.options import json_option, print_json, printable

_PROCESSES = ("PROCESS", "READY", "IN FLIGHT")
_CREDENTIALS = ("PROCESS", "CREDENTIAL", "TYPE", "TOKEN", "EXPIRES IN", "FETCHES", "FAILURES")


@click.command()
@control_option
@json_option
def status(socket_path: str | None, *, as_json: bool) -> None:
    """Show the running gatepass: whether it is ready, its requests in progress, and its tokens.

    Exit codes: 0 shown, 1 gatepass did not answer.
    """
    page = json.loads(request("GET", "/status", socket_path))
    if as_json:
        print_json(page)
        return
    for line in lines_of(page):
        click.echo(line)


def lines_of(page: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines that describe the page /status of one process or of all workers."""
    processes: Mapping[str, Mapping[str, Any]] = page.get("workers", {"gatepass": page})
    yield from aligned([_PROCESSES, *(_process(name, one) for name, one in processes.items())])
    for name, one in processes.items():
        if (store := one.get("store")) is not None and store["state"] != "up":
            yield f"{name} store {store['state']}: {printable(store['reason'])}"
    credentials = [
        (name, credential, held) for name, one in processes.items() for credential, held in one["credentials"].items()
    ]
    if not credentials:
        return
    yield ""
    yield from aligned([_CREDENTIALS, *(_credential(*row) for row in credentials)])
    for name, credential, held in credentials:
        if held["failing"]:
            yield f"{name} {credential}: {printable(held['last_error'])}"


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()


def _process(name: str, one: Mapping[str, Any]) -> tuple[str, ...]:
    ready = "draining" if one["draining"] else "yes" if one["ready"] else "no"
    return name, ready, str(one["in_flight"])


def _credential(name: str, credential: str, held: Mapping[str, Any]) -> tuple[str, ...]:
    left_s = held["expires_in_s"]
    token = "failing" if held["failing"] else held["state"]
    left = "-" if left_s is None else f"{left_s:.0f} s"
    return name, credential, held["type"], token, left, str(held["fetches"]), str(held["failures"])
