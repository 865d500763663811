"""Write the commands of docs/reference/cli.md: the help of each, with the examples of docs/texts/commands.yaml."""

from __future__ import annotations

from collections.abc import Iterator

import click
from docs.entries import Entry, joined, linked, read, unwrapped

from gatepass.cli import main

TEXTS = read("texts/commands.yaml")


def commands(group: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """Yield every command that --help shows, with its whole name."""
    yield name, group
    if isinstance(group, click.Group):
        context = click.Context(group)
        for child in group.list_commands(context):
            command = group.get_command(context, child)
            if command is not None and not command.hidden:
                yield from commands(command, f"{name} {child}")


def command_entry(name: str, command: click.Command) -> Entry:
    purpose, _, codes = unwrapped(command.help or "").partition("Exit codes: ")
    usage = " ".join([name, *command.collect_usage_pieces(click.Context(command))])
    facts = {"Usage": f"`{usage}`"}
    if not isinstance(command, click.Group):
        facts["Example"] = f"`{example_of(name)}`"
    if codes:
        facts["Exit codes"] = codes
    if section := TEXTS["outputs"].get(name.removeprefix("gatepass ")):
        facts["Output"] = linked(f"docs/{section}")
    return Entry(name, purpose.strip(), facts, depth=2)


def example_of(name: str, *options: str) -> str:
    return " ".join([name, *options, *filter(None, [TEXTS["arguments"].get(name.removeprefix("gatepass "))])])


def option_entry(name: str, option: click.Option) -> Entry:
    flag = option.opts[0]
    purpose, _, default = (option.help or "").partition(" Default: ")
    if not default:
        default = f"`{option.default}`" if isinstance(option.default, str | int | float) and option.default else "none"
        default = "off" if option.is_flag else default
    facts = {
        "Type": option_type(option),
        "Default": default.rstrip("."),
        "Example": f"`{TEXTS['examples'].get(f'{name} {flag}') or option_example(name, option)}`",
    }
    if isinstance(option.type, click.types.FloatParamType):
        facts["Unit"] = "seconds"
    return Entry(f"{name} {flag}", purpose, facts, depth=3)


def option_type(option: click.Option) -> str:
    kind = option.type
    match kind:
        case click.Choice():
            return "one of " + ", ".join(f"`{choice}`" for choice in kind.choices)
        case click.IntRange():
            return f"whole number, {kind.min} to {kind.max}"
        case click.FloatRange():
            return f"number above {kind.min:g}"
    if option.is_flag:
        return "flag"
    return f"text, `{option.metavar}`" if option.metavar else "text"


def option_example(name: str, option: click.Option) -> str:
    flag = option.opts[0]
    if option.is_flag:
        return example_of(name, flag)
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
    entries: list[Entry] = []
    for name, command in commands(main, "gatepass"):
        options = [option for option in command.params if isinstance(option, click.Option) and not option.hidden]
        entries += [command_entry(name, command), *(option_entry(name, option) for option in options)]
    return joined(entries)
