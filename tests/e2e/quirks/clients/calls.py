"""Make each call of stdin once, and write the results to stdout in order.

The client is configured with OPENAI_BASE_URL and OPENAI_API_KEY only. A call is `{"model", "mode", "body", "repeats"}`.
A result is `{"text", "calls", "usage", "finish", "role", "chunks", "vectors", "error"}`.
"""

from __future__ import annotations

import faulthandler
import json
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

PARALLEL = 6
TIMEOUT_S = 20.0
STUCK_S = 90.0
"""After this time the process prints its stacks and exits."""

Call = dict[str, Any]


class Result:
    def __init__(self) -> None:
        self.text = ""
        self.calls: dict[Any, list[str]] = {}
        self.usage: dict[str, Any] | None = None
        self.finish: str | None = None
        self.role: str | None = None
        self.chunks = 0
        self.vectors: list[Any] | None = None

    def as_json(self, error: BaseException | None) -> dict[str, Any]:
        error_json = None if error is None else error_fields(error)
        return vars(self) | {"calls": list(self.calls.values()), "error": error_json}


Handler = Callable[[Call, Result], None]


def error_fields(error: BaseException) -> dict[str, Any]:
    """Return what a user or a program can read from the error."""
    reply = getattr(error, "response", None)
    headers = {} if reply is None else reply.headers
    return {
        "class": type(error).__name__,
        "message": str(error),
        "status": getattr(error, "status_code", None),
        "code": getattr(error, "code", None),
        "retry_after": headers.get("retry-after"),
        "should_retry": headers.get("x-should-retry"),
    }


def run_call(call: Call, handler: Handler) -> dict[str, Any]:
    result, failed = Result(), None
    try:
        handler(call, result)
    except Exception as error:  # noqa: BLE001 - every exception of the client is a result
        failed = error
    return result.as_json(failed)


def run_all(handlers: Mapping[str, Handler]) -> None:
    faulthandler.dump_traceback_later(STUCK_S, exit=True)
    with ThreadPoolExecutor(PARALLEL) as pool:
        json.dump(list(pool.map(lambda call: run_call(call, handlers[call["mode"]]), json.load(sys.stdin))), sys.stdout)
