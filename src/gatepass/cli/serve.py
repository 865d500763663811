"""`gatepass serve`."""

from __future__ import annotations

import logging
import signal
import sys
from typing import TYPE_CHECKING

import click

from gatepass import __version__
from gatepass.cli.configuration import load_or_exit, refuse

if TYPE_CHECKING:
    from gatepass.config.load import Loaded

CANNOT_BIND = 3


@click.command()
@click.option(
    "--config", "config_path", type=click.Path(), help="The configuration file; GATEPASS_CONFIG names it too."
)
@click.option("--host", help="The address to listen on, instead of server.host.")
@click.option("--port", type=click.IntRange(0, 65535), help="The port, instead of server.port; 0 picks a free one.")
def serve(config_path: str | None, host: str | None, port: int | None) -> None:
    """Serve until SIGTERM or Ctrl-C, then let running streams finish."""
    # the kernel drops a SIGTERM for which pid 1 has no handler: a container stopped during the imports would stay
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    from gatepass.app import Server, listen
    from gatepass.gate import build_gate
    from gatepass.observe.log import configure

    loaded = load_or_exit(config_path, host, port)
    try:
        gate = build_gate(loaded.config)
    except OSError as error:
        refuse(f"a certificate of the configuration cannot be loaded: {error}")
    configure(loaded.config.log.level, loaded.config.log.format, gate.redactor)
    _announce(loaded)
    server = loaded.config.server
    try:
        listening = listen(server.host, server.port)
    except OSError as error:
        click.echo(f"gatepass cannot listen on {server.host}:{server.port}: {error.strerror}", err=True)
        sys.exit(CANNOT_BIND)
    Server(gate, lambda url: click.echo(f"gatepass listening on {url}", err=True)).run(sockets=[listening])


def _announce(loaded: Loaded) -> None:
    """Say at the start what counts, and what somebody should know before trusting it."""
    log = logging.getLogger("gatepass.serve")
    config = loaded.config
    fields = {
        "version": __version__,
        "configuration": loaded.source,
        "upstreams": sorted(config.upstreams),
        "credentials": sorted(config.credentials),
        "keys": len(config.access.keys),
    }
    log.info("starting", extra={"fields": fields})
    if config.log.bodies:
        said = "log.bodies is on: beginnings of requests and replies, which are personal data, go into this log"
        log.warning("bodies_logged", extra={"fields": {"warning": said}})
