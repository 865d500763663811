"""`gatepass healthcheck`: container engines run it every few seconds, so it imports as little as possible."""

from __future__ import annotations

import os
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException, RemoteDisconnected

import click

from gatepass.cli.options import config_option, exit_unusable
from gatepass.config.references import own_variables
from gatepass.errors import system_reason

HOST, PORT = "127.0.0.1", 8080
"""The defaults of `server` in config/model.py, copied because that module takes long to import."""
# an address that means all interfaces is none to connect to
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - compared with, never listened on


def reachable(listen_host: str) -> str:
    return _WILDCARDS.get(listen_host, listen_host)


def failure_of(host: str, port: int, timeout_s: float) -> str | None:
    """Send GET /healthz; return why the reply is not a 200, or None. `timeout_s` applies to each read."""
    connection = HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("GET", "/healthz")
        status = connection.getresponse().status
    except RemoteDisconnected:  # both an OSError and an HTTPException
        return f"no answer from {host}:{port}: it closed the connection without an answer"
    except OSError as error:
        return f"no answer from {host}:{port}: {system_reason(error)}"
    except HTTPException:
        return f"no answer from {host}:{port}: its answer is not HTTP"
    finally:
        connection.close()
    return None if status == 200 else f"{host}:{port} answered {status} to GET /healthz"


def variable(name: str) -> str | None:
    """Return the variable GATEPASS_`name`, without those that Kubernetes sets for a service (GATEPASS_PORT=tcp://…)."""
    return own_variables(os.environ).get(name)


def own_file(path: str | None) -> str | None:
    """Return `path`, else the file of GATEPASS_CONFIG, else ./gatepass.yaml if nothing else configures gatepass.

    Exits with 2 if ./gatepass.yaml belongs to another user or others may write to it.
    """
    from gatepass.config.document import ConfigError
    from gatepass.config.file import configuration_file

    try:
        return configuration_file(path, own_variables(os.environ))
    except ConfigError as error:
        exit_unusable(str(error))


def listening(path: str, environment: Mapping[str, str]) -> tuple[str, int]:
    """Return `server.host` and `server.port` of the file; raise ConfigError or ValueError.

    Nothing else is checked, so that a secret that is just being replaced does not fail the health check.
    """
    # imported here, because a check with --host and --port reads no file
    from gatepass.config.document import lookup
    from gatepass.config.file import read_document
    from gatepass.config.references import resolve

    tree = read_document(path).tree
    host, port = (lookup(tree, ("server", name)) for name in ("host", "port"))
    return resolve(host, environment) if isinstance(host, str) else HOST, port if isinstance(port, int) else PORT


@click.command()
@config_option
@click.option("--host", default=lambda: variable("HOST"), help="The address that gatepass listens on.")
@click.option("--port", type=click.IntRange(1, 65535), default=lambda: variable("PORT"), help="The port of gatepass.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    default=2.0,
    show_default=True,
    help="Seconds that gatepass may take to answer.",
)
def healthcheck(path: str | None, host: str | None, port: int | None, timeout_s: float) -> None:
    """Check whether gatepass on this machine is alive: exit code 0, or 1 with the reason.

    The address comes from the options, else from GATEPASS_HOST and GATEPASS_PORT, else from `server` in the file of
    --config, GATEPASS_CONFIG or ./gatepass.yaml, as for `gatepass serve`. The file is read only if it is needed.
    """
    path = own_file(path)
    if path is not None and (host is None or port is None):
        from gatepass.config.document import ConfigError

        try:
            file_host, file_port = listening(path, os.environ)
        except (ConfigError, ValueError) as error:
            raise click.ClickException(str(error)) from None
        host, port = host or file_host, port or file_port
    if port == 0:
        raise click.ClickException("server.port is 0, which picks a free port: set the port with --port")
    reason = failure_of(reachable(host or HOST), port or PORT, timeout_s)
    if reason is not None:
        raise click.ClickException(reason)
