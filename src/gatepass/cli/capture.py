"""`gatepass capture` keeps the bodies of chosen requests for some minutes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime

import click

from gatepass.cli.control import control_option, read, request
from gatepass.cli.options import json_option, print_json, printable
from gatepass.cli.story_lines import size
from gatepass.documents import CaptureState
from gatepass.types import counted

MINUTE_S = 60


@click.command()
@click.option("--model", metavar="NAME", help="Only requests of this model, as clients name it. Default: every model.")
@click.option("--caller", metavar="NAME", help="Only requests of this caller. Default: every caller.")
@click.option(
    "--minutes",
    type=click.IntRange(1, 24 * 60),
    metavar="N",
    help="How long gatepass keeps bodies, at most 1440. Default: 10.",
)
@click.option("--stop", is_flag=True, help="End the capture, and drop the bodies.")
@control_option
@json_option
def capture(
    model: str | None,
    caller: str | None,
    minutes: int | None,
    socket_path: str | None,
    *,
    stop: bool,
    as_json: bool,
) -> None:
    """Keep the bodies of requests in the memory of the running gatepass for some minutes.

    `gatepass show ID` shows them, with secrets masked. Without an option, the command shows the running capture.

    Exit codes: 0 done, 1 gatepass did not answer.
    """
    settings = {"model": model, "caller": caller, "for_s": minutes and 60 * minutes}
    given = {name: value for name, value in settings.items() if value is not None}
    if stop and given:
        raise click.UsageError("--stop ends the capture: leave the other options out.")
    method = "DELETE" if stop else "POST" if given else "GET"
    state = read(CaptureState, request(method, "/capture", socket_path, json.dumps(given).encode() if given else b""))
    if as_json:
        print_json(state)
        return
    for line in capture_lines(state, has_started=bool(given)):
        click.echo(line)


def capture_lines(state: CaptureState, *, has_started: bool) -> Iterator[str]:
    if state.until is None or state.left_s is None:
        yield "Nothing is captured. Start with `gatepass capture --model NAME --caller NAME --minutes 10`."
        return
    model = f"the model {printable(state.model)}" if state.model else "every model"
    caller = f"the caller {printable(state.caller)}" if state.caller else "every caller"
    ends, left_s = datetime.fromtimestamp(state.until, UTC), round(state.left_s)
    left = f"{left_s // 60} min {left_s % 60} s" if left_s >= MINUTE_S else f"{left_s} s"
    yield f"Capturing the bodies of {model} and {caller} until {ends:%H:%M:%S} UTC ({left})."
    if has_started:
        yield "Show them with `gatepass show ID`. They are dropped at the end, or by `gatepass capture --stop`."
    else:
        yield f"Captured so far: {counted(state.captured, 'request')}, {size(state.held_bytes)}."
