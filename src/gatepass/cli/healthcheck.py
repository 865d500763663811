"""`gatepass healthcheck`: what a container engine asks every few seconds, so it imports next to nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException

import click

from gatepass.config.references import own_variables

HOST, PORT = "127.0.0.1", 8080
"""The defaults of `server` in config/model.py, which takes long to import."""
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - compared with, never listened on


def reachable(listen_host: str) -> str:
    """The address under which this machine reaches a server that listens on `listen_host`."""
    return _WILDCARDS.get(listen_host, listen_host)


def failure_of(host: str, port: int, timeout_s: float) -> str | None:
    """Why `GET /healthz` there is not a 200 within `timeout_s` of silence, or None where it is."""
    connection = HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("GET", "/healthz")
        status = connection.getresponse().status
    except (OSError, HTTPException) as error:
        return f"no answer from {host}:{port}: {type(error).__name__} {error}"
    finally:
        connection.close()
    return None if status == 200 else f"{host}:{port} answered {status} to GET /healthz"


def variable(name: str) -> str | None:
    """GATEPASS_`name` as `gatepass serve` understands it: GATEPASS_PORT=tcp://… of a service link is none."""
    return own_variables(os.environ).get(name)


def listening(path: str, environment: Mapping[str, str]) -> tuple[str, int]:
    """`server.host` and `server.port` of the file; raises ConfigError, and ValueError for a reference to nothing.

    Nothing else of the file is judged: a secret that is being replaced makes no live server look dead.
    """
    from gatepass.config.document import lookup
    from gatepass.config.file import read_document
    from gatepass.config.references import resolve

    tree = read_document(path).tree
    host, port = (lookup(tree, ("server", name)) for name in ("host", "port"))
    return resolve(host, environment) if isinstance(host, str) else HOST, port if isinstance(port, int) else PORT


@click.command()
@click.option("--config", "path", metavar="FILE", default=lambda: variable("CONFIG"), help="The file that it reads.")
@click.option("--host", default=lambda: variable("HOST"), help="Where gatepass was told to listen.")
@click.option("--port", type=click.IntRange(1, 65535), default=lambda: variable("PORT"), help="And at which port.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0, min_open=True), default=2.0, show_default=True)
def healthcheck(path: str | None, host: str | None, port: int | None, timeout_s: float) -> None:
    """Ask the gatepass of this machine whether it lives: exit code 0, or 1 and the reason.

    Like `gatepass serve` it goes by its options, else by GATEPASS_HOST and GATEPASS_PORT, else by
    `server` in the file of --config or GATEPASS_CONFIG. The file is read only where it decides.
    """
    if path is not None and (host is None or port is None):
        from gatepass.config.document import ConfigError

        try:
            said_host, said_port = listening(path, os.environ)
        except (ConfigError, ValueError) as error:
            raise click.ClickException(str(error)) from None
        host, port = host or said_host, port or said_port
    if port == 0:
        raise click.ClickException("server.port is 0, which picks a free one: name it by --port")
    reason = failure_of(reachable(host or HOST), port or PORT, timeout_s)
    if reason is not None:
        raise click.ClickException(reason)
