"""One client request ─► Call, for the operations whose body is a JSON object with a `model`."""

from __future__ import annotations

import re

from gatepass.errors import InvalidRequest
from gatepass.json_scan import MOST_STEPS, string
from gatepass.operations.headers import safe_headers
from gatepass.operations.request import Document
from gatepass.types import Call, Inbound, Operation, Surface

MAX_MODEL_CHARS = 512
MAX_CHOICES = 128

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_QUOTE = ord('"')
_COUNT = re.compile(rb"[1-9][0-9]{0,2}")
_STREAM = {None: False, b"null": False, b"false": False, b"true": True}


def decode(inbound: Inbound, operation: Operation, body: bytes, caller: str, most_steps: int = MOST_STEPS) -> Call:
    """The Call that `inbound` and its whole `body` stand for. Its body is `body` itself.

    Its headers are all that may go upstream at all (see `safe_headers`): whoever encodes the request
    for an upstream picks from them. `model` is "" where the body names none.
    Raises UnsupportedEncoding, InvalidJson and InvalidRequest, and TooManySteps where the body takes more than
    `most_steps` (see Walk).
    """
    headers = safe_headers(inbound.headers, is_read=True)
    document = Document.read(body, asks_vectors=operation.surface is Surface.EMBEDDINGS, most_steps=most_steps)
    model, choices = _model(document.model), 1
    stream = _STREAM.get(document.stream)
    if stream is None:
        raise InvalidRequest("`stream` must be true, false or null.", param="stream")
    n = document.n  # where it is no count, the upstream says so and not we
    if n is not None and _COUNT.fullmatch(n) is not None and int(n) <= MAX_CHOICES:
        choices = int(n)
    return Call(inbound.id, operation, caller, model, body, headers, stream, choices, asked=document.asked)


def without_body(inbound: Inbound, operation: Operation, caller: str, model: str) -> Call:
    """The Call of a request whose body gatepass does not read; `model` is "" where there is none."""
    headers = safe_headers(inbound.headers)
    return Call(id=inbound.id, operation=operation, caller=caller, model=model, body=b"", headers=headers)


def _model(raw: bytes | None) -> str:
    if raw is None:
        return ""
    if raw[0] != _QUOTE:
        raise InvalidRequest("`model` must be a string.", param="model")
    return checked_model(string(raw))


def checked_model(model: str) -> str:
    """`model` itself; raises InvalidRequest for what is no name."""
    if not model:
        raise InvalidRequest("`model` is empty.", param="model")
    if len(model) > MAX_MODEL_CHARS:
        raise InvalidRequest(f"`model` is longer than {MAX_MODEL_CHARS} characters.", param="model")
    if not model.isprintable() and _CONTROL.search(model) is not None:  # what is printable holds none
        raise InvalidRequest("`model` holds a control character.", param="model")
    return model
