"""No integration test passes while the server or the loop complains."""

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trustme

COMPLAINERS = ("uvicorn.error", "asyncio", "gatepass.serve")


class _ErrorHandler(logging.Handler):
    """Collects the errors that the server and the loop log: a broken request, an exception that no code retrieved."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.received: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        trace = logging.Formatter().formatException(record.exc_info) if record.exc_info else ""
        self.received.append(f"{record.name}: {record.getMessage()}\n{trace}")


@pytest.fixture(scope="session", autouse=True)
def short_system_trust(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One certificate in place of the system's, which each TLS context reads in 20 ms: nearly every test makes one."""
    trusted = tmp_path_factory.mktemp("trust") / "system.pem"
    trustme.CA().cert_pem.write_to_path(trusted)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(trusted))
        yield


@contextmanager
def _listening() -> Iterator[list[str]]:
    handler = _ErrorHandler()
    loggers = [logging.getLogger(name) for name in COMPLAINERS]
    for logger in loggers:
        logger.addHandler(handler)
    yield handler.received
    for logger in loggers:
        logger.removeHandler(handler)


@pytest.fixture(autouse=True)
def logged_errors() -> Iterator[list[str]]:
    """Errors of the machinery; a test that provokes one empties the list when it has looked at it."""
    with _listening() as received:
        yield received
        gc.collect(1)  # asyncio logs a task whose exception was not retrieved when the task is collected
    assert received == []


@pytest.fixture(scope="module", autouse=True)
def logged_errors_of_the_module() -> Iterator[None]:
    """Collect the objects that are too old for the young generations: a full collection after each test takes 6 ms."""
    yield
    with _listening() as received:
        gc.collect()
    assert received == []
