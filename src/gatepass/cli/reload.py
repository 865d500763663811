"""`gatepass reload`: let the running gatepass reload its configuration, and print what changed or the problems."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import click

from gatepass.cli.configuration import CHECK_FAILED, UNUSABLE
from gatepass.cli.control import control_option, request
from gatepass.cli.options import json_option, print_json


@click.command()
@control_option
@json_option
def reload(socket_path: str | None, *, as_json: bool) -> None:
    """Reload the configuration of the running gatepass, in all of its workers.

    gatepass validates the whole configuration first. If it cannot be used, the old one continues.

    Exit codes: 0 reloaded or unchanged, 1 gatepass did not answer, 2 the configuration cannot be used.
    """
    result = json.loads(request("POST", "/reload", socket_path))
    if as_json:
        print_json(result)
    else:
        for line in lines_of(result):
            click.echo(line, err=result["outcome"] == "refused")
    if not result["processes"]:
        sys.exit(CHECK_FAILED)
    if result["outcome"] == "refused":
        sys.exit(UNUSABLE)


def lines_of(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines that describe the result of `POST /reload`."""
    if not result["processes"]:
        yield "No worker answered. Try again, and search the log for `worker_unresponsive`."
    elif result["outcome"] == "refused":
        yield from result["problems"]
        if result["changed"]:
            yield "Only some of the workers have reloaded. Run `gatepass reload` again."
        else:
            yield "The configuration was not reloaded: the old one continues."
    elif result["outcome"] == "reloaded":
        yield "Reloaded. Changed:"
        yield from (f"  {name}" for name in result["changed"])
    else:
        yield "Nothing that a reload applies has changed."
    if result["needs_restart"]:
        yield f"These settings need a restart: {', '.join(result['needs_restart'])}"
