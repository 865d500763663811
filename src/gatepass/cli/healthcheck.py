"""`gatepass healthcheck`: container engines run it every few seconds, so it imports as little as possible."""

from __future__ import annotations

import os
import ssl
from http.client import HTTPConnection, HTTPException, HTTPSConnection, RemoteDisconnected
from typing import Any

import click

from gatepass.cli.options import config_option
from gatepass.config.references import own_variables
from gatepass.errors import system_reason

HOST, PORT = "127.0.0.1", 8080
"""The defaults of `server` in config/model.py, copied because that module takes long to import."""
# an address that means all interfaces is none to connect to
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - compared with, never listened on


def reachable(listen_host: str) -> str:
    return _WILDCARDS.get(listen_host, listen_host)


def failure_of(host: str, port: int, timeout_s: float, tls: Any = None) -> str | None:
    """Send GET /healthz; return why the reply is not a 200, or None. `timeout_s` applies to each read.

    `tls` is `server.tls` of the file. gatepass here need not have a certificate for `host`.
    """
    connection = HTTPConnection(host, port, timeout=timeout_s)
    if tls is not None:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = HTTPSConnection(host, port, timeout=timeout_s, context=context)
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


def listening(path: str) -> tuple[str, int, Any, Any]:
    """Return `server.host`, `port`, `tls` and `control_socket` as the file has them; raise ConfigError.

    Nothing else is checked, so that a secret that is just being replaced does not fail the health check.
    """
    # imported here, because a check with --host and --port reads no file
    from gatepass.config.document import lookup
    from gatepass.config.file import read_document

    tree = read_document(path).tree
    host, port, tls, control = (lookup(tree, ("server", name)) for name in ("host", "port", "tls", "control_socket"))
    return host if isinstance(host, str) else HOST, port if isinstance(port, int) else PORT, tls, control


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
    --config, GATEPASS_CONFIG or ./gatepass.yaml, as for `gatepass serve`. If the file has `server.tls`, the check uses
    TLS.
    """
    from gatepass.config.document import ConfigError
    from gatepass.config.file import configuration_file

    tls = None
    try:
        if (path := configuration_file(path, own_variables(os.environ))) is not None:
            from gatepass.config.references import resolve

            file_host, file_port, tls, _ = listening(path)
            host, port = host or resolve(file_host, os.environ), port or file_port
    except (ConfigError, ValueError) as error:
        if host is None or port is None:
            raise click.ClickException(str(error)) from None
    if port == 0:
        raise click.ClickException("server.port is 0, which picks a free port: set the port with --port")
    reason = failure_of(reachable(host or HOST), port or PORT, timeout_s, tls)
    if reason is not None:
        raise click.ClickException(reason)
