"""Wrong inputs to the command line: one clear message each, no traceback, exit code 2."""

from __future__ import annotations

import errno
import io
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from gatepass.cli import main

VALID = "upstreams: {chat: {base_url: 'https://llm.example/v1'}}\n"
KEYED = VALID + "access: {keys: [{name: bot, hash: 'sha256:" + "0" * 64 + "'}]}\n"
INTERNAL = re.compile(r"Traceback|Errno|\b[A-Z]\w+(?:Error|Exception)\b|<class|object at 0x|\[type=|pydantic")
"""Text of Python that no user should see."""


def unreadable(path: Path) -> None:
    path.write_text(VALID)
    path.chmod(0)


def text(content: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_text(content)

    return write


NOBODY = 65534

CASES: dict[str, tuple[Callable[[Path], None] | None, str, str]] = {
    # (writes FILE, command line, part of the message)
    "an unknown command": (None, "serv", "Did you mean 'serve'?"),
    "a command like no other": (None, "xyzzy", "No such command 'xyzzy'"),
    "an unknown option": (None, "check --confg FILE", "--config"),
    "an unknown global option": (None, "--verbos", "No such option"),
    "an option without its value": (None, "check --config", "requires an argument"),
    "a missing argument": (None, "route", "Missing argument 'MODEL'"),
    "no configuration": (None, "check", "name a file with --config"),
    "a file that is missing": (None, "check --config FILE", "does not exist"),
    "a file below a file": (text(VALID), "check --config FILE/x", "Not a directory"),
    "a port that is no number": (text(VALID), "serve --config FILE --port eighty", "'eighty' is not a valid"),
    "a port that is too high": (text(VALID), "serve --config FILE --port 65536", "0<=x<=65535"),
    "no workers": (text(VALID), "serve --config FILE --workers 0", "1<=x<=64"),
    "an unknown format": (text(VALID), "serve --config FILE --log-format xml", "'xml' is not one of 'json', 'text'"),
    "a key that is not there": (text(KEYED), "route m --config FILE --key bto", "'bto' is not the name of a key"),
    "an unknown agent host": (text(VALID), "doctor m --as qwen", "For another client: gatepass doctor --url BASE_URL"),
    "an unknown operation": (text(VALID), "route m --config FILE --operation chta", "'chta' is not one of"),
    "a credential that is not there": (
        text(VALID + "credentials: {corp: {type: static, token: k}}\n"),
        "token crop --config FILE",
        "'crop' is not a name under credentials; did you mean corp?\n",
    ),
    "a credential beside none": (text(VALID), "token corp --config FILE", "'corp' is not a name under credentials\n"),
    "no credential at all": (text(VALID), "token --config FILE", "there are none"),
    "YAML and JSON at once": (None, "learned --as-config --json", "leave --json out"),
    "a profile that is not there": (None, "keys new --profile ragflwo", "did you mean ragflow?"),
    "a profile that the file has not": (text(VALID), "keys new --profile own --config FILE", "under profiles"),
    "an output in a missing folder": (None, "init --yes --output FILE/x.yaml", "No such file or directory"),
    "an output that is a folder": (Path.mkdir, "init --yes --force --output FILE", "is a folder: name a file in it"),
    "a secret's path that ends a reference": (None, "init --yes --secret-file a}b", "a path with } cannot stand in"),
    "a role that is not one": (None, "keys new --role boss", "'boss' is not one of 'caller', 'viewer', 'admin'"),
    "an end that is not a time": (
        None,
        "keys new --expires tomorrow",
        "--expires: expects a date, such as 2027-01-31, or an RFC 3339 time",
    ),
    "a profile that is no name": (None, "keys new --profile a/b", "--profile: a name is 1 to 63 letters"),
    "an MCP server that is no name": (None, "keys new --mcp a/b", "--mcp: a name is 1 to 63 letters"),
    "an MCP server without its tools": (None, "keys new --mcp search:", "--mcp: expects NAME or NAME:TOOL,TOOL"),
    "an operation of a key": (None, "keys new --operation file", "--operation: 'file' is not known here; did you mean"),
    "a key without a file for it": (None, "keys new --write", "there is no configuration file"),
    "a key for a missing file": (None, "keys new --write --config FILE", "input.yaml: does not exist"),
    "a call without --call": (text(VALID), "doctor --config FILE --operation chat", "--operation requires --call"),
    "a key without --call": (text(KEYED), "doctor --config FILE --key bot", "--key requires --call"),
    "an agent host without a model": (None, "doctor --as codex", "--as requires a model"),
    "an agent host and a call": (None, "doctor m --as codex --call", "leave out --call"),
    "an agent host and a URL": (None, "doctor m --as codex --url http://127.0.0.1:9/v1", "leave it out with --url"),
    "an MCP server and a model": (None, "doctor m --mcp tools", "--mcp tests one MCP server"),
    "an MCP server and a call": (None, "doctor --mcp tools --call", "--mcp tests one MCP server"),
    "an MCP server and a URL": (None, "doctor --mcp tools --url http://127.0.0.1:9/v1", "--mcp tests one MCP server"),
    "an MCP server that is not there": (text(VALID), "doctor --config FILE --mcp tools", "`mcp` is not configured"),
    "batches of any model": (
        None,
        "keys new --model m --operation batches",
        "--operation: opens batches, which may run any model",
    ),
    "a duration without a unit": (
        None,
        "capture --for 10x",
        "'10x' is not a number with one of the units s, m, h, such as 10m",
    ),
    "a size in other units": (
        None,
        "capture --bytes 1MB",
        "'1MB' is not a number with one of the units KiB, MiB, GiB, such as 16MiB",
    ),
    "a capture to stop and to begin": (
        None,
        "capture --stop --for 1m",
        "--stop ends the capture: leave the other options out",
    ),
    "a version to come": (text(VALID), "check --config FILE --from 99.0", "is newer than this version"),
    "a time that is negative": (None, "healthcheck --timeout -1", "x>0"),
}


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    for path in tmp_path.iterdir():
        if path.is_file():
            path.chmod(0o600)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_wrong_input_is_one_clear_message_with_exit_code_2(case, tmp_path):
    made, command, message = case
    file = tmp_path / "input.yaml"
    if made is not None:
        made(file)
    result = CliRunner().invoke(main, command.replace("FILE", str(file)).split())
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert result.stderr.count(message) == 1 or message.startswith(":"), "it is said once"
    assert not INTERNAL.search(result.output), result.output
    assert result.stdout == ""


def test_a_file_without_permission(tmp_path):
    file = tmp_path / "input.yaml"
    unreadable(file)
    CliRunner().invoke(main, ["check"])  # imports what it needs, which another user may not read
    user = os.geteuid()
    if user == 0:  # root may read everything
        os.seteuid(NOBODY)
    try:
        result = CliRunner().invoke(main, ["check", "--config", str(file)])
    finally:
        os.seteuid(user)
    assert (result.exit_code, result.stderr.count("Permission denied")) == (2, 1)


class Unwritable(io.StringIO):
    """A stdout that refuses every write, as a full disk and a pipe without a reader do."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def write(self, _: str) -> int:
        raise OSError(self._number, os.strerror(self._number))


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "Error: the output cannot be written: no space left on its device\n"),
        (errno.EPIPE, ""),  # the reader has what it wanted, as in `gatepass schema | head -1`
    ],
)
def test_an_output_that_cannot_be_written_is_no_traceback(monkeypatch, number, message):
    monkeypatch.setattr("sys.stdout", Unwritable(number))
    monkeypatch.setattr("sys.stderr", errors := io.StringIO())
    with pytest.raises(SystemExit) as ended:
        main(["schema"])
    assert (ended.value.code, errors.getvalue()) == (1, message)
