"""Every error of gatepass as a client sees it: status, headers, body, and the event that ends a stream with it."""

import json
from collections.abc import Iterator

from gatepass import errors
from gatepass.protocols.error_objects import error_body, error_headers, stream_error
from tests.golden.golden import same

PHASES = ("connect", "first_byte", "idle", "total")


def one_of_each() -> Iterator[errors.GatepassError]:
    """Each class of the tree once, and the timeout once for each phase."""
    for kind in tree(errors.GatepassError):
        text = f"{kind.__name__} happened."
        if kind is errors.UpstreamTimeout:
            yield from (errors.UpstreamTimeout(text, upstream="chat", phase=phase) for phase in PHASES)
        elif issubclass(kind, errors.UpstreamErrorReply):
            yield kind(text, upstream="chat", status=401, kind="its_type", upstream_code="its_code")
        elif issubclass(kind, errors.CodedError):
            yield from (kind(code, text) for code in kind.statuses)
        elif kind is errors.MethodNotAllowed:
            yield errors.MethodNotAllowed(text, allow="POST")
        elif issubclass(kind, errors.UpstreamError):
            yield kind(text, upstream="chat")
        elif kind is errors.TokenUnavailable:
            yield errors.TokenUnavailable(text, credential="corp", retry_after_s=4)
        else:
            yield kind(text)


def tree(base: type[errors.GatepassError]) -> Iterator[type[errors.GatepassError]]:
    for child in base.__subclasses__():
        if child.__module__ == errors.__name__:
            bases = (errors.CallerError, errors.GatewayError, errors.UpstreamError, errors.CodedError)
            if child not in bases and not (base is not errors.CodedError and issubclass(child, errors.CodedError)):
                yield child
            yield from tree(child)


def shown(error: errors.GatepassError) -> str:
    lines = [f"status {error.http_status}, hop {error.hop}"]
    lines += [f"{name.decode()}: {value.decode()}" for name, value in error_headers(error)]
    lines += ["", json.dumps(json.loads(error_body(error)), indent=2), "", stream_error(error, rewords=True).decode()]
    return "\n".join(lines)


def test_the_error_table():
    found = sorted(one_of_each(), key=lambda error: (error.hop, error.public_code))
    same("errors.txt", {f"{error.public_code} ({type(error).__name__})": shown(error) for error in found})
