"""Write the commands of docs/reference/cli.md: the help of each, with the examples of docs/texts/commands.yaml."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import click
from docs.entries import Entry, joined, linked, read, sentence, table, unwrapped

from gatepass.cli import main

TEXTS = read("texts/commands.yaml")
COMMON = ("--config", "--socket", "--json")
"""Options that mean the same in several commands: a table of their own has them."""


def commands(group: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """Yield every command that --help shows, with its whole name."""
    yield name, group
    if isinstance(group, click.Group):
        context = click.Context(group)
        for child in group.list_commands(context):
            command = group.get_command(context, child)
            if command is not None and not command.hidden:
                yield from commands(command, f"{name} {child}")


def command_entry(name: str, command: click.Command, common: Iterable[str]) -> Entry:
    purpose, _, codes = unwrapped(command.help or "").partition("Exit codes: ")
    usage = " ".join([name, *command.collect_usage_pieces(click.Context(command))])
    facts = {"Usage": f"`{usage}`"}
    if not isinstance(command, click.Group) and (example := example_of(name)) != name:
        facts["Example"] = f"`{example}`"
    if codes:
        facts["Exit codes"] = codes
    if section := TEXTS["outputs"].get(name.removeprefix("gatepass ")):
        facts["Output"] = linked(f"docs/{section}")
    if common:
        facts["Also"] = f"[{', '.join(f'`{flag}`' for flag in common)}](#options-of-several-commands)"
    return Entry(name, purpose.strip(), facts, depth=2)


def example_of(name: str, *options: str) -> str:
    return " ".join([name, *options, *filter(None, [TEXTS["arguments"].get(name.removeprefix("gatepass "))])])


def option_row(name: str, option: click.Option) -> tuple[str, str, str]:
    flag = option.opts[0]
    purpose, _, default = (option.help or "").partition(" Default: ")
    if not default and option.default and not option.is_flag and isinstance(option.default, str | int | float):
        default = f"`{option.default}`"
    effect = sentence(purpose) + option_values(option) + (f" Default: {sentence(default)}" if default else "")
    example = TEXTS["examples"].get(f"{name} {flag}") or option_example(name, option)
    return f"`{flag}`", effect, f"`{example}`" if example else ""


HEAD = ("option", "effect", "example")


def option_values(option: click.Option) -> str:
    """Return a sentence about the values that the option takes, if they are not any text."""
    kind = option.type
    match kind:
        case click.Choice():
            return f" One of {', '.join(f'`{choice}`' for choice in kind.choices)}."
        case click.IntRange():
            return f" {kind.min} to {kind.max}."
        case click.FloatRange():
            return f" Seconds above {kind.min:g}."
    return ""


def option_example(name: str, option: click.Option) -> str:
    flag = option.opts[0]
    if option.is_flag:
        return ""
    value = TEXTS["values"].get(flag, "")
    if isinstance(option.type, click.Choice):
        value = option.type.choices[-1]
    elif isinstance(option.default, str | int | float) and option.default:
        value = f"{option.default:g}" if isinstance(option.default, float) else str(option.default)
    return example_of(name, flag, value) if value else ""


def index_of_commands() -> str:
    """Return a list of all commands, each with its short help."""
    named = [(name, command) for name, command in commands(main, "gatepass") if not isinstance(command, click.Group)]
    anchors = {name: name.replace(" ", "-") for name, _ in named}
    return "\n".join(f"- [`{name}`](#{anchors[name]}): {command.get_short_help_str(200)}" for name, command in named)


def all_commands() -> str:
    entries: list[Entry | str] = []
    shared: dict[str, tuple[str, str, str]] = {}
    for name, command in commands(main, "gatepass"):
        options = [option for option in command.params if isinstance(option, click.Option) and not option.hidden]
        rows = {option.opts[0]: option_row(name, option) for option in options}
        common = {flag: rows.pop(flag) for flag in COMMON if flag in rows}
        shared = common | shared
        if any(row[1] != shared[flag][1] for flag, row in common.items()):
            raise ValueError(f"an option of {name} means something else than in other commands")
        entries.append(command_entry(name, command, common))
        if rows:
            entries.append(table(HEAD, rows.values()) + "\n")
    several = table(HEAD, (shared[flag] for flag in COMMON))
    return joined(("## Options of several commands\n", several + "\n", *entries))
