"""`gatepass token`: mint one token, say what it is, and watch it being kept fresh."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from gatepass.cli.configuration import CHECK_FAILED, exit_unusable, load_or_exit

if TYPE_CHECKING:
    from gatepass.config.credential.kinds import AnyCredential
    from gatepass.config.model import Config
    from gatepass.config.network import TokenPlacement
    from gatepass.proxy.app_state import AppState
    from gatepass.tokens import Status, Token, TokenHolder

LOOK_S = 0.1
LABEL_CHARS = 12
FOUND_S = 1.0
"""A token that is older than its fetch by this much was not minted by it."""
ASKS_NOBODY = frozenset({"static", "api_key", "env", "file"})
"""Types of credential whose fetch takes no time that is worth a word."""
ISSUER = "the issuer's reply"
TOLD_BY: Mapping[str, str] = {
    "exec": "what the program printed",
    "file": "the file",
    "aws_bedrock": "key_life_s, with which it was signed",
}
"""Where the life of a token stands that no issuer replied with, by the type of its credential."""


@click.command()
@click.argument("name", required=False)
@click.option("--config", "path", metavar="FILE", help="The configuration; GATEPASS_CONFIG names it too.")
@click.option("--watch", is_flag=True, help="Go on, and tell of each refresh as it happens, until Ctrl-C.")
@click.option("--reveal", is_flag=True, help="Print the token itself too, as the last line.")
@click.option("--force", is_flag=True, help="Use up a refresh token that is kept nowhere.")
def token(name: str | None, path: str | None, watch: bool, reveal: bool, force: bool) -> None:
    """Mint a token of the credential NAME and show what it is: its life, who told it, its safe claims.

    Without NAME the only credential is taken; where there are several, their names are listed.

    This is a call to the issuer, as every minting is: where a new token ends the old one, a gatepass
    that runs with this credential has to fetch again. With a store that processes share, the token
    that lies there is shown instead, if it is good. A refresh token that is kept nowhere but in the
    gatepass that runs is not touched: it would end there.

    Exit codes: 0 minted, 1 no token could be had, 2 there is no such credential, or it is not to be touched.
    """
    config = load_or_exit(path).config
    name = _named(config, name)
    if not force:
        _leave_alone(config, name)
    logging.getLogger("gatepass").addHandler(logging.NullHandler())  # or its warnings would stand between the lines
    try:
        minted = asyncio.run(_run(config, name, watch=watch, reveal=reveal))
    except KeyboardInterrupt:
        minted = watch
    sys.exit(0 if minted else CHECK_FAILED)


def _named(config: Config, name: str | None) -> str:
    """The credential that is meant; exits with 2 where there is none, or no telling which."""
    from gatepass.config.wording import did_you_mean

    names = list(config.credentials)
    if name is None:
        if len(names) != 1:
            exit_unusable(f"which credential? there is {', '.join(names) or 'none'}")
        return names[0]
    if name not in names:
        exit_unusable(f"{name!r} is not a name under credentials{did_you_mean(name, names)}")
    return name


def _leave_alone(config: Config, name: str) -> None:
    """Exit with 2 if fetching a token would end the login of the running gatepass."""
    from gatepass.config.checks import UNSHARED_REFRESH_LOGIN, has_unshared_refresh_token

    if has_unshared_refresh_token(config, name):
        exit_unusable(
            f"credentials.{name}: {UNSHARED_REFRESH_LOGIN}. If no gatepass runs with it, --force uses it; "
            "the next refresh token is then lost."
        )


async def _run(config: Config, name: str, *, watch: bool, reveal: bool) -> bool:
    """Whether a token was minted; with `watch` it only ends by being cancelled, and a failure is a line."""
    from gatepass.clock import SystemClock
    from gatepass.proxy.app_state import create_app_state
    from gatepass.store.choice import open_store

    clock = SystemClock()
    state = create_app_state(config, clock, open_store(config.store, None, clock))
    holder = state.holders[name]
    state.store_cache.start()
    holder.start()
    try:
        minted = await _show(state, name, holder, reveal=reveal, watch=watch)
        if watch:
            await _watch(state, holder)
        return minted
    finally:
        await state.aclose()


async def _show(state: AppState, name: str, holder: TokenHolder, *, reveal: bool, watch: bool) -> bool:
    from gatepass.errors import TokenUnavailable

    began_s = state.clock.now()
    try:
        minted = await holder.token()
    except TokenUnavailable as error:
        status = holder.status()
        reason = status.last_error or error.message
        if watch:
            _tell(f"failed: {reason}{next_try(status)}")
        else:
            click.echo(f"FAIL credential:{name}: {reason}", err=True)
        return False
    took_s = state.clock.now() - began_s
    view = CredentialView(holder.status(), minted, state.clock.now())
    for label, text in report(state.config, name, view, took_s, state.clock.wall()):
        click.echo(f"{label:<{LABEL_CHARS}} {text}".rstrip())
    if reveal:
        click.echo(minted.text)
    return True


async def _watch(state: AppState, holder: TokenHolder) -> None:
    from gatepass.clock import sleep

    watch_log = CredentialWatch(CredentialView(holder.status(), holder.current(), state.clock.now()))
    while True:
        await sleep(state.clock, LOOK_S)
        for line in watch_log.since(CredentialView(holder.status(), holder.current(), state.clock.now())):
            _tell(line)


def _tell(line: str) -> None:
    click.echo(f"{time.strftime('%H:%M:%S')} {line}")


def report(config: Config, name: str, view: CredentialView, took_s: float, wall_s: float) -> Iterator[tuple[str, str]]:
    """What is known of a token, as labels and texts; the token itself is not among them."""
    from gatepass.config.credential.kinds import token_location
    from gatepass.tokens.lifetime import safe_claims

    credential, status, token = config.credentials[name], view.status, view.token
    if token is None:
        return
    yield "credential", f"{name} ({credential.type})"
    took = "" if credential.type in ASKS_NOBODY else f", in {took_s:.2f} s"
    yield "from", f"{token_location(credential)}{took}"
    # a text in a file is followed, whatever it is: only where nobody changes it is it a key
    kind = "opaque" if credential.type == "file" and token.lifetime_s is None else token.kind.value
    yield "token", f"{kind}, {len(token.text)} characters"
    if status.age_s is not None and status.age_s > took_s + FOUND_S:
        yield "age", f"{status.age_s:.0f} s: another gatepass minted it, the store had it"
    yield "life", _life(credential, token)
    if status.expires_in_s is not None and token.lifetime_s is not None:
        kept_s = rounded(token.end_s - token.expires_s)
        yield "sent for", f"{status.expires_in_s:.0f} s more; not in its last {kept_s} s, or it might end on the way"
    if status.next_try_in_s is not None:
        yield "refresh", f"in {status.next_try_in_s:.0f} s"
    yield from (("carried as", text) for text in _carried(config, name))
    yield from (("claim", f"{claim}: {value}") for claim, value in safe_claims(token.text, wall_s).items())


def _life(credential: AnyCredential, token: Token) -> str:
    from gatepass.tokens.lifetime import LifetimeSource

    if token.lifetime_s is None:
        is_file = credential.type == "file"
        return "until the file changes: nothing tells its end" if is_file else "for good: a key that does not expire"
    told_by = {
        LifetimeSource.JWT: "told by the token itself",
        LifetimeSource.REPLY: f"told by {TOLD_BY.get(credential.type, ISSUER)}",
        LifetimeSource.DEFAULT: "default_ttl_s, for nothing tells it",
        LifetimeSource.NONE: "told by nobody",
    }[token.lifetime_source]
    return f"{rounded(token.lifetime_s)} s, {told_by}"


def _carried(config: Config, name: str) -> Iterator[str]:
    """How it is shown to the upstreams of the credential, those that agree on one line."""
    from gatepass.config.checks import placement_of

    ways: dict[str, list[str]] = {}
    for upstream, settings in config.upstreams.items():
        if settings.credential == name:
            ways.setdefault(_way(placement_of(settings, config)), []).append(upstream)
    if not ways:
        yield f"{_way(config.credentials[name].placement)}; no upstream names it"
    yield from (f"{way}, to {', '.join(upstreams)}" for way, upstreams in ways.items())


def _way(placement: TokenPlacement) -> str:
    fields = [f"{name}: {template}" for name, template in placement.templates.items()]
    return " and ".join([*fields, *([f"?{placement.query}={{token}}"] if placement.query else [])])


WHOLE_FROM_S = 10.0
"""From here on they are told without fractions."""


def rounded(seconds: float) -> str:
    """Cut off, never up: no token lives longer than is said."""
    return f"{int(seconds)}" if seconds >= WHOLE_FROM_S else f"{int(seconds * 10) / 10:g}"


FOUND = "found: another gatepass fetched it"


@dataclass(frozen=True, slots=True)
class CredentialView:
    """A credential at the moment `now` (Clock.now); `token` is the one that would be sent."""

    status: Status
    token: Token | None
    now: float


class CredentialWatch:
    """What happens to a credential while somebody watches: a short line for each change, and one a minute for a failure
    that goes on. It begins at `first`, of which everything has been told."""

    def __init__(self, first: CredentialView) -> None:
        self._before = first.status
        self._token = first.token
        from gatepass.tokens.token_log import FailureDeduplicator

        self._repetitions = FailureDeduplicator()
        if first.status.failing:
            self._repetitions.count_to_report(str(first.status.last_error), first.now)

    def since(self, view: CredentialView) -> Iterator[str]:
        """What has changed since the look before this one, in the order in which it happens."""
        before, self._before = self._before, view.status
        age_s, before_s = view.status.last_error_age_s, before.last_error_age_s
        # by the time of the last error: one that another gatepass was told is in no count of this one
        if age_s is not None and (before_s is None or age_s < before_s):
            reason = str(view.status.last_error)
            # each at once, then once a minute, as in the log
            times = self._repetitions.count_to_report(reason, view.now)
            if times is not None:
                said = "failed" if times == 1 else f"failed {times} times more"
                yield f"{said}: {reason}{next_try(view.status)}"
        if view.token is not None and view.token is not self._token:
            how = f"fetch {view.status.fetches}" if view.status.fetches > before.fetches else FOUND
            life = "no end told" if view.token.lifetime_s is None else f"lives {rounded(view.token.lifetime_s)} s"
            said = f"new token ({how}): {view.token.kind.value}, {life}"
            if self._token is not None and view.token.text == self._token.text:
                said = f"the same token again ({how})"
            yield f"{said}{next_try(view.status)}"
            self._token = view.token
            self._repetitions.reset()
        if before.expires_in_s and view.status.expires_in_s == 0:
            yield "expired: requests wait for the next token, or fail"


def next_try(status: Status) -> str:
    """When the next fetch is due, as the end of a line; nothing where none is."""
    return "" if status.next_try_in_s is None else f"; next try in {status.next_try_in_s:.0f} s"
