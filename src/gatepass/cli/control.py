"""Talk to the running gatepass over its control socket, as an admin and for all of its workers."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException
from typing import Any, TypeVar

import click

from gatepass.cli.options import progress
from gatepass.config.references import own_variables

BOUND_S = 60.0
"""A reload of all workers may take this long."""
PAGE_BYTES = 64 * 1024 * 1024
OK, CONFLICT = 200, 409
Command = TypeVar("Command", bound=Callable[..., Any])


class NotRunning(click.ClickException):
    """No running gatepass was found. The message contains the remedy. A command ends with it and exit code 1."""


def control_option(command: Command) -> Command:
    """Add `--socket` to a command that uses the control socket."""
    text = (
        "Control socket of the running gatepass. Default: GATEPASS_CONTROL_SOCKET, else the only one of this user, else"
        " the one on the port of the configuration."
    )
    return click.option("--socket", "socket_path", type=click.Path(), help=text)(command)


def request(method: str, target: str, socket_path: str | None = None) -> bytes:
    """Send a request to the running gatepass and return the body of its reply. A long wait is shown on a terminal.

    `target` is a page, such as `/status`, or `/reload` with POST. Raises NotRunning, or ClickException with
    the error that gatepass returned.
    """
    path = socket_path or found_socket()
    connection = _UnixConnection(path)
    try:
        with progress(f"the gatepass at {path}"):
            connection.request(method, target)
            response = connection.getresponse()
            body = response.read(PAGE_BYTES)
    except TimeoutError:
        raise click.ClickException(f"the gatepass at {path} did not answer within {BOUND_S:g} s") from None
    except OSError as error:
        reason = error.strerror or "the connection closed"
        raise NotRunning(f"no gatepass answers at {path}: {reason}. Start one with `gatepass serve`") from None
    except HTTPException:
        raise NotRunning(f"the process at {path} is not a gatepass") from None
    finally:
        connection.close()
    # a refused reload is a 409 with its problems in the body
    if response.status not in (OK, CONFLICT):
        raise click.ClickException(_message_of(body) or f"the gatepass at {path} answered {response.status}")
    return body


def found_socket() -> str:
    """Return the socket of GATEPASS_CONTROL_SOCKET, or the living one of this user. Raises NotRunning.

    If several live, it is the one on the port of GATEPASS_PORT, or of the file that `gatepass serve` would read here.
    """
    from gatepass.server.control_socket import AUTO, OFF, living_sockets

    named = own_variables(os.environ).get("CONTROL_SOCKET", AUTO)
    if named not in (AUTO, OFF):
        return named
    found = living_sockets(os.environ)
    if len(found) == 1:
        return str(found[0])
    if not found:
        raise NotRunning(
            "no running gatepass of this user was found. Start one with `gatepass serve`, or name its control socket"
            " with --socket"
        )
    own_port = _own_port()
    if (own := next((path for path in found if path.stem == own_port), None)) is not None:
        return str(own)
    raise NotRunning(f"several gatepass are running. Choose one with --socket: {', '.join(map(str, found))}")


def _own_port() -> str | None:
    """Return the port of the configuration; None if there is none, or if it cannot be read."""
    from gatepass.cli.healthcheck import listening, variable
    from gatepass.config.document import ConfigError
    from gatepass.config.file import configuration_file

    try:
        path = configuration_file(None, own_variables(os.environ))
        return variable("PORT") or (None if path is None else str(listening(path, os.environ)[1]))
    except (ConfigError, ValueError):
        return None


def socket_at(port: int) -> str | None:
    """Return the control socket of the gatepass of this user that listens on `port`, None if there is none."""
    from gatepass.server.control_socket import living_sockets

    return next((str(path) for path in living_sockets(os.environ) if path.stem == str(port)), None)


class _UnixConnection(HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=BOUND_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)  # for each read: a reload sends nothing until all workers have answered
        self.sock.connect(self._path)


def _message_of(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return ""
