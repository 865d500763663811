"""A configuration that was read, opened to serve."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from gatepass.cli.configuration import refuse
from gatepass.clock import SystemClock
from gatepass.config.load import Loaded
from gatepass.config.references import UnresolvedReference
from gatepass.observability.log import configure
from gatepass.proxy.app_state import Gate, build_gate
from gatepass.store.choice import Inheritance, open_store


def gate_of(
    loaded: Loaded,
    refuse: Callable[[str], NoReturn] = refuse,
    inheritance: Inheritance | None = None,
    worker: int | None = None,
) -> Gate:
    """The Gate of a configuration, and the log as that wants it; what cannot be used after all is for `refuse`."""
    clock = SystemClock()
    try:
        gate = build_gate(loaded.config, clock, open_store(loaded.config.store, inheritance, clock))
    except OSError as error:
        refuse(f"a certificate of the configuration cannot be loaded: {error}")
    except UnresolvedReference as error:
        refuse(f"a secret of the configuration has gone since it was read: {error}")
    configure(loaded.config.log.level, loaded.config.log.format, gate.redactor, worker=worker)
    return gate
