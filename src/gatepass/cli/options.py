"""What commands share: options with one sentence everywhere, exit codes, output, and the configuration that they load.

A problem goes to stderr. click leaves colours out if the output is not a terminal.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from typing import TYPE_CHECKING, NoReturn, cast

import click

if TYPE_CHECKING:
    from gatepass.clock import Clock
    from gatepass.config.load import LoadedConfig
    from gatepass.config.model import Config
    from gatepass.proxy.app_state import AppState

CONFIG_HELP = "Configuration file. Default: GATEPASS_CONFIG, else ./gatepass.yaml."
config_option = click.option("--config", "path", metavar="FILE", help=CONFIG_HELP)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

CHECK_FAILED = 1
UNUSABLE = 2
CALL_OPERATIONS = ("chat", "completions", "embeddings", "rerank", "messages", "responses")
OPERATION_OF_KIND: Mapping[str | None, str] = {
    **dict.fromkeys((None, "chat", "vision"), "chat"),
    "embedding": "embeddings",
    "rerank": "rerank",
    "asr": "transcriptions",
    "tts": "speech",
}


def coloured(text: str, colour: str) -> str:
    """Return `text` in `colour`, unless the environment has NO_COLOR (no-color.org)."""
    return text if os.environ.get("NO_COLOR") else click.style(text, fg=colour)


def is_chinese() -> bool:
    """Whether the locale is Chinese: the first of LC_ALL, LC_MESSAGES and LANG that is set decides."""
    named = (os.environ.get(name) for name in ("LC_ALL", "LC_MESSAGES", "LANG"))
    return next(filter(None, named), "").startswith("zh")


@cache
def _chinese() -> Mapping[str, str]:
    """Return the Chinese texts of the page at /ui, by the English ones. `show` and doctor use them too."""
    from importlib.resources import files

    found = files("gatepass.server.ui").joinpath("static", "zh.js").read_text("utf-8")
    return cast("Mapping[str, str]", json.loads(found.partition("TEXTS = ")[2].rstrip(";\n")))


def translated(text: str, /, **values: object) -> str:
    """Return `text` in the language of the locale, with `values` in its places."""
    text = _chinese().get(text, text) if is_chinese() else text
    return text.format(**values) if values else text


def plural(count: int, noun: str) -> str:
    from gatepass.types import counted

    return translated(f"{{n}} {noun}", n=count) if is_chinese() else counted(count, noun)


def print_json(document: object) -> None:
    """Print the one document of `--json`, in ASCII: the text of a server cannot control the terminal."""
    from msgspec import to_builtins

    click.echo(json.dumps(to_builtins(document), indent=2))


def printable(text: object, keep: str = "") -> str:
    """Replace control characters and line breaks, except those in `keep`.

    The message of a server or a name in a file could otherwise control the terminal, or look like the command's line.
    """
    return "".join(char if char.isprintable() or char in keep else " " if char.isspace() else "�" for char in str(text))


@contextmanager
def progress(waits_for: str) -> Iterator[None]:
    """Show on a terminal what the block waits for. A log would store the line, which is cleared at the end."""
    if not sys.stderr.isatty():
        yield
        return
    click.echo(f"waiting for {waits_for}", nl=False, err=True)
    try:
        yield
    finally:
        click.echo("\r\x1b[K", nl=False, err=True)


def load_or_exit(path: str | None) -> LoadedConfig:
    """Load the configuration and print its warnings to stderr; exit with 2 if it is invalid."""
    from gatepass.config.document import ConfigError
    from gatepass.config.load import load, memory_limit_bytes

    try:
        loaded = load(path, os.environ, memory_bytes=memory_limit_bytes())
    except ConfigError as error:
        print_warnings(error.warnings)
        exit_unusable(str(error))
    print_warnings(loaded.warnings)
    return loaded


def print_warnings(warnings: Iterable[str]) -> None:
    for warning in warnings:
        click.echo(f"{coloured('warning', 'yellow')}: {printable(warning)}", err=True)


@asynccontextmanager
async def open_state(config: Config, clock: Clock | None = None) -> AsyncIterator[AppState]:
    """Open the AppState of a configuration, whose holders are not started, and close it at the end."""
    from gatepass.clock import SystemClock
    from gatepass.proxy.app_state import create_app_state
    from gatepass.store.guarded import open_store

    clock = clock or SystemClock()
    state = create_app_state(config, clock, open_store(config.store, clock))
    try:
        if state.store is not None:
            state.store.cache.start()
        yield state
    finally:
        await state.aclose()


def exit_unusable(text: str) -> NoReturn:
    click.echo(printable(text, "\n"), err=True)
    sys.exit(UNUSABLE)


def _counts(config: Config) -> dict[str, int]:
    counts = {"upstream": len(config.upstreams), "MCP server": len(config.mcp), "issuer": len(config.access.jwt)}
    counts = {name: count for name, count in counts.items() if count}
    return counts | {"credential": len(config.credentials), "key": len(config.access.keys)}


def summary_zh(config: Config) -> str:
    names = {
        "upstream": "个上游",
        "MCP server": "个 MCP 服务器",
        "credential": "个凭据",
        "key": "个 key",
        "issuer": "个签发方",
    }
    return "、".join(f"{count} {names[name]}" for name, count in _counts(config).items())


def summary(config: Config) -> str:
    counts = _counts(config)
    return ", ".join(f"{count} {name}{'' if count == 1 else 's'}" for name, count in counts.items())


def declared_operation(config: Config, model: str) -> str | None:
    """Return the operation of `model` by its entry (or a glob) or an `operations.NAME.model`, else None."""
    from gatepass.normalize.rules import DeclaredModels
    from gatepass.proxy.models import Kinds, declared_kind

    entry = DeclaredModels(config).model("chat", model)
    kind = (None if entry is None else declared_kind(entry)) or Kinds(config).of(model)
    return OPERATION_OF_KIND[kind] if kind else None


def operation_of(config: Config, model: str) -> str:
    """Return the operation of `model` as it is declared, else by its name."""
    return declared_operation(config, model) or operation_by_name(model)


def operation_by_name(model: str) -> str:
    from gatepass.config.routes import kind_by_name

    return OPERATION_OF_KIND[kind_by_name(model)]


def _named(ctx: click.Context) -> str:
    """Return the command, whatever the program is called."""
    return "gatepass" if ctx.parent is None else f"{_named(ctx.parent)} {ctx.info_name}"


class CommandGroup(click.Group):
    """A group of commands that says what to do in place of one, or of an option, that an earlier version had."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            from gatepass.config.wording import misspelt
            from gatepass.errors import retired

            near = misspelt(name, self.list_commands(ctx))
            said = retired(f"{_named(ctx)} {name}") or (f"Did you mean {near!r}?" if near else "")
            ctx.fail(f"No such command {name!r}. {said}".rstrip())
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except click.NoSuchOption as error:
            from gatepass.errors import retired

            if error.ctx is not None and (said := retired(f"{_named(error.ctx)} {error.option_name}")):
                raise click.UsageError(f"No such option {error.option_name}. {said}", error.ctx) from None
            raise
