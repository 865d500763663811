"""`gatepass healthcheck`: what a container engine asks every few seconds, so it imports next to nothing."""

from __future__ import annotations

import os
from http.client import HTTPConnection, HTTPException

import click

from gatepass.config.variables import own_variables

_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - compared with, never listened on


def reachable(listen_host: str) -> str:
    """The address under which this machine reaches a server that listens on `listen_host`."""
    return _WILDCARDS.get(listen_host, listen_host)


def complaint(host: str, port: int, timeout_s: float) -> str | None:
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


def variable(name: str, otherwise: str) -> str:
    """GATEPASS_`name` as `gatepass serve` understands it: GATEPASS_PORT=tcp://… of a service link is none."""
    return own_variables(os.environ).get(name, otherwise)


@click.command()
@click.option("--host", default=lambda: variable("HOST", "127.0.0.1"), help="Where gatepass was told to listen.")
@click.option("--port", type=click.IntRange(1, 65535), default=lambda: variable("PORT", "8080"))
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0, min_open=True), default=2.0, show_default=True)
def healthcheck(host: str, port: int, timeout_s: float) -> None:
    """Ask the gatepass of this machine whether it lives: exit code 0, or 1 and the reason.

    Without options it asks where GATEPASS_HOST and GATEPASS_PORT tell `gatepass serve` to listen.
    """
    reason = complaint(reachable(host), port, timeout_s)
    if reason is not None:
        raise click.ClickException(reason)
