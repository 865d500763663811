"""Open the AppState of a loaded configuration, for `gatepass serve`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from gatepass.cli.configuration import exit_unusable
from gatepass.clock import SystemClock
from gatepass.config.load import LoadedConfig
from gatepass.config.references import UnresolvedReference
from gatepass.errors import system_reason
from gatepass.observability.log import configure
from gatepass.proxy.app_state import AppState, create_app_state
from gatepass.store.choice import WorkerStore, open_store


def open_app_state(
    loaded: LoadedConfig,
    exit_unusable: Callable[[str], NoReturn] = exit_unusable,
    worker_store: WorkerStore | None = None,
    worker: int | None = None,
) -> AppState:
    """Open the AppState of a configuration and set up its log. Exit with `exit_unusable` if a secret is gone."""
    clock = SystemClock()
    try:
        state = create_app_state(loaded.config, clock, open_store(loaded.config.store, worker_store, clock))
    except OSError as error:
        exit_unusable(f"a certificate of the configuration cannot be loaded: {system_reason(error)}")
    except UnresolvedReference as error:
        exit_unusable(f"a secret of the configuration was removed after loading: {error}")
    configure(loaded.config.log.level, loaded.config.log.format, state.redactor, worker=worker)
    return state
