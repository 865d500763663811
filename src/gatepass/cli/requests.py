"""`gatepass tail` and `gatepass show`: what the request inspector of the running gatepass knows.

They use the control socket, which needs no key. `story_lines.py` draws.
"""

from __future__ import annotations

import json
import time
from urllib.parse import quote, urlencode, urlsplit

import click
import msgspec

from gatepass.cli.control import ask, control_option, found_socket
from gatepass.cli.healthcheck import reachable
from gatepass.cli.options import json_option, print_json, printable
from gatepass.cli.story_lines import HEAD, cleaned, list_line, story_lines, summary_line
from gatepass.documents import Requests, Stories
from gatepass.observability.story import MOST_LISTED, NO_CURL, curl_command

LAST = 10
"""How many of the last requests `tail` shows first."""
POLL_S = 0.5
OVERLAP_S = 0.01
"""How much of two listings overlaps, because a listing rounds the ends of requests."""


@click.command()
@click.option("--failed", is_flag=True, help="Only requests that failed, or whose client left.")
@click.option("--once", is_flag=True, help=f"End after the last {LAST} requests instead of waiting for new ones.")
@control_option
@json_option
def tail(*, socket_path: str | None, failed: bool, once: bool, as_json: bool) -> None:
    """Show requests as they end: one line each.

    `gatepass show ID` has the start and the whole story of one of them. Ctrl-C ends the command.

    Exit codes: 0 ended by Ctrl-C or --once, 1 gatepass did not answer.
    """
    path = socket_path or found_socket()
    # id and end, because clients choose ids: one may repeat
    seen, after_s = set[tuple[str, float | None]](), 0.0

    try:
        while True:
            limit = MOST_LISTED if after_s or failed else LAST
            page = ask(Requests, "GET", f"/requests?{urlencode({'ended_after': after_s, 'limit': limit})}", path)
            found = [one for one in reversed(page.requests) if not failed or one.outcome != "ok"]
            new = [one for one in found if (one.id, one.ended) not in seen]
            if not after_s:
                new = new[-LAST:]
                if not as_json:
                    click.echo(list_line(HEAD))
            seen, after_s = {(one.id, one.ended) for one in page.requests}, page.now - OVERLAP_S
            for one in new:
                click.echo(json.dumps(msgspec.to_builtins(one)) if as_json else summary_line(cleaned(one)))
            if once:
                return
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        return


@click.command()
@click.argument("request_id", metavar="ID")
@click.option("--curl", "as_curl", is_flag=True, help="Print a curl command that sends the request again.")
@control_option
@json_option
def show(request_id: str, socket_path: str | None, *, as_curl: bool, as_json: bool) -> None:
    """Show what happened to the request ID: the hop that failed, what gatepass changed, and where the time went.

    ID is the `x-request-id` of the response, or the request id of the upstream: of several requests with it the newest
    is shown. The curl command of --curl reads the key from `$GATEPASS_KEY`.

    Exit codes: 0 shown, 1 the request is not known, or gatepass did not answer.
    """
    if as_curl and as_json:
        raise click.UsageError("--curl prints a command: leave --json out.")
    path = socket_path or found_socket()
    page = ask(Stories, "GET", f"/requests/{quote(request_id, safe='')}", path)
    if not page.stories:
        begin = ask(Requests, "GET", "/requests?limit=1", path).ids_begin
        raise click.ClickException(
            f"the request {printable(request_id)} is not known here. The log keeps every request; the ids of this"
            f" replica begin with {begin}."
        )
    story = page.stories[0]
    if as_json:
        print_json(story)
    elif as_curl:
        parts = urlsplit(page.url)
        host = reachable(parts.hostname or "")  # the server may listen on all interfaces
        command = curl_command(story, f"http://{f'[{host}]' if ':' in host else host}:{parts.port}")
        if command is None:
            raise click.ClickException(NO_CURL)
        click.echo(command)
    else:
        click.echo("\n".join(story_lines(cleaned(story), time.time())))
