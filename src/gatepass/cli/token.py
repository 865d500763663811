"""`gatepass token`: fetch one token and describe it."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from gatepass.cli import options

if TYPE_CHECKING:
    from gatepass.config.model import Config
    from gatepass.config.network import TokenPlacement
    from gatepass.documents import TokenStatus
    from gatepass.tokens import Token

LABEL_CHARS = 15


@click.command()
@click.argument("name", required=False)
@options.config_option
@options.json_option
@click.option("--reveal", is_flag=True, help="Also print the token, as the last line.")
def token(name: str | None, path: str | None, *, as_json: bool, reveal: bool) -> None:
    """Fetch a token of the credential NAME. Show its lifetime, the origin of the lifetime, and its claims.

    NAME can be omitted if there is only one credential. Claims that may identify a person are not shown.

    The command calls the issuer. If a new token ends the previous one, a running gatepass with this credential has to
    fetch again. With a shared store, the command shows the valid token of the store instead.

    Exit codes: 0 fetched, 1 no token, 2 unknown credential.
    """
    from gatepass.config.wording import did_you_mean

    config = options.load_or_exit(path).config
    names = list(config.credentials)
    if name is None and len(names) != 1:
        known = f": {', '.join(names)}" if names else "; there are none"
        options.exit_unusable(f"name a credential{known}")
    name = names[0] if name is None else name
    if name not in names:
        options.exit_unusable(f"{name!r} is not a name under credentials{did_you_mean(name, names)}")
    logging.getLogger("gatepass").addHandler(logging.NullHandler())  # keeps log lines out of the output
    sys.exit(0 if asyncio.run(_run(config, name, as_json=as_json, reveal=reveal)) else options.CHECK_FAILED)


async def _run(config: Config, name: str, *, as_json: bool, reveal: bool) -> bool:
    """Fetch a token and print it, or the failure. Return whether it was fetched."""
    from gatepass.config.credential.kinds import token_location
    from gatepass.errors import TokenUnavailable

    async with options.open_state(config) as state:
        holder = state.holders[name]
        holder.start()
        try:
            with options.progress(token_location(config.credentials[name])):
                fetched = await holder.token()
        except TokenUnavailable as error:
            # the error's own message announces a next try, which this command does not wait for
            failure = holder.last_failure
            if as_json:
                reason = error.message if failure is None else failure.reason
                options.print_json({"credential": name, "error": reason})
            else:
                from gatepass.cli.doctor import text_of
                from gatepass.cli.probe import token_step

                text = text_of(token_step(error, config.credentials[name], failure))
                click.echo(f"{options.coloured('FAIL', 'red')} {error.hop}: {text}", err=True)
            return False
        shown = described(config, name, holder.status(), fetched, state.clock.wall())
        if as_json:
            options.print_json(shown | ({"token": fetched.text} if reveal else {}))
            return True
        for label, value in shown.items():
            lines = value if isinstance(value, list) else [] if value is None else [value]
            if isinstance(value, dict):
                lines = [f"{claim}: {text}" for claim, text in value.items()]
            for line in lines:
                click.echo(f"{label:<{LABEL_CHARS}} {options.printable(line)}")
        if reveal:
            click.echo(fetched.text)
        return True


def described(config: Config, name: str, status: TokenStatus, token: Token, wall_s: float) -> dict[str, object]:
    """Return the description of a token, with times in seconds. It does not contain the token."""
    from gatepass.config.credential.kinds import token_location
    from gatepass.tokens.lifetime import safe_claims

    credential = config.credentials[name]
    times = {
        "age_s": status.age_s,
        "lifetime_s": token.lifetime_s,
        "expires_in_s": status.expires_in_s,
        "next_try_in_s": status.next_try_in_s,
    }
    return {
        "credential": name,
        "type": credential.type,
        "from": token_location(credential),
        "kind": token.kind.value,
        "characters": len(token.text),
        **{label: None if value is None else round(value, 3) for label, value in times.items()},
        "lifetime_source": token.lifetime_source.value,
        "sent_as": list(_placements(config, name)),
        "claims": safe_claims(token.text, wall_s),
    }


def _placements(config: Config, name: str) -> Iterator[str]:
    from gatepass.config.checks import placement_of
    from gatepass.types import MCP_UPSTREAM

    receivers = {**config.upstreams, **{MCP_UPSTREAM + one: server.as_upstream() for one, server in config.mcp.items()}}
    names_by_placement: dict[str, list[str]] = {}
    for receiver, settings in receivers.items():
        if settings.credential == name:
            names_by_placement.setdefault(_described(placement_of(settings, config)), []).append(receiver)
    if not names_by_placement:
        yield f"{_described(config.credentials[name].placement)}; no upstream uses it"
    yield from (f"{placement}, to {', '.join(names)}" for placement, names in names_by_placement.items())


def _described(placement: TokenPlacement) -> str:
    fields = [f"{name}: {template}" for name, template in placement.templates.items()]
    return " and ".join([*fields, *([f"?{placement.query}={{token}}"] if placement.query else [])])
