"""Wrong inputs to the command line: one clear message each, no traceback, exit code 2."""

from __future__ import annotations

import errno
import io
import os

import pytest
from click.testing import CliRunner

from gatepass.cli import main

VALID = "upstreams: {chat: {base_url: 'https://llm.example/v1'}}\n"


NOBODY = 65534


def test_a_file_without_permission(tmp_path):
    file = tmp_path / "input.yaml"
    file.write_text(VALID)
    file.chmod(0)
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
