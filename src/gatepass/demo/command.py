"""`gatepass demo`: the main job from end to end on this machine, without a network."""

from __future__ import annotations

import asyncio
import importlib.util
import sys

import click

from gatepass.config.credential.base import in_a_clone


@click.command()
@click.option("--once", is_flag=True, help="End after the last step: exit code 0 only if every step was right.")
@click.option("--life", "life_s", type=click.FloatRange(min=3), default=20, hidden=True)
def demo(once: bool, life_s: float) -> None:
    """Play the main job on this machine: an issuer, two model servers, gatepass in front, a real client."""
    if importlib.util.find_spec("openai") is None:
        click.echo(f"The demo uses the openai client, which is not installed: {in_a_clone('demo')}", err=True)
        sys.exit(2)
    from gatepass.demo.show import show  # imports servers and client, which no other command needs

    sys.exit(asyncio.run(show(click.echo, once=once, life_s=life_s)))
