"""Fuzz targets for request heads and bodies, forms, framing, issuer replies and configurations."""

import asyncio
import contextlib
import json
import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, NoReturn

from msgspec import structs

from gatepass.config.document import ConfigError
from gatepass.config.load import LoadedConfig, load
from gatepass.config.yaml_file import parse_yaml
from gatepass.errors import GatepassError
from gatepass.http_client.response_body import taken
from gatepass.json_body import places
from gatepass.protocols.request import read_body
from gatepass.proxy.uploads import Form, boundary_of
from gatepass.server.parser import RequestParser
from gatepass.sse.event import Framer, split_events
from gatepass.tokens.failure import FetchFailure
from gatepass.tokens.issuer_error import TimedTokenResponse
from gatepass.tokens.lifetime import MAX_LIFETIME_S, Token, stale_at_s
from gatepass.tokens.token_reply import TokenReplyFormat, parse_token_response
from gatepass.types import Secret
from tests.fuzz.pieces import pieces
from tests.unit.server.cycle_recorder import CycleRecorder

WALL_S = 1_800_000_000.0
LONGEST_REASON = 1_000
SENDABLE = re.compile(r"[A-Za-z0-9._~+/-]+=*")

REPLY_FORMATS = (
    TokenReplyFormat("sso", 240.0, credential="corp"),
    TokenReplyFormat("sso", 240.0, plain_text=True, is_login=True),
)
_JSON_ONLY = re.compile(r"[-+\d.eE]{300}|[eE]\+?\d{3}|NaN|Infinity|[\x85\u2028\u2029]")
"""Numbers of so many digits, and line breaks and names of numbers, that YAML reads in another way."""
_LINE = re.compile(rb"[^\r\n]*(?:\r\n|\r|\n)")


def parser_ignores_chunking(body: bytes, random: Random) -> None:
    """The parsed requests do not depend on the chunks, and only a GatepassError ends the connection."""
    assert _requests([body]) == _requests(pieces(body, random))


def _requests(parts: Iterable[bytes]) -> tuple[list[Any], bool]:
    """Return the requests in `parts`, and whether an error follows. The kind of the error may depend on the chunks."""
    recorder, is_refused = CycleRecorder(), False
    reader = RequestParser(recorder)
    try:
        for part in parts:
            reader.feed(part)
    except GatepassError:
        is_refused = True
    cycles = [
        (
            cycle.method,
            cycle.path,
            cycle.target,
            cycle.version,
            cycle.headers,
            cycle.persists,
            cycle.is_whole,
            _body(cycle),
        )
        for cycle in recorder.cycles
    ]
    return cycles, is_refused


def _body(cycle: Any) -> bytes:
    return taken(cycle._pieces)


def body_is_read_as_the_standard_parser_reads_it(body: bytes, _: Random) -> None:
    """A body is refused, or each of its members has the value and the place that the standard parser finds."""
    try:
        top = read_body(body)
    except GatepassError:
        return
    document = json.loads(body)
    assert dict.fromkeys(top.names) == dict.fromkeys(document)
    for place, (name, value) in zip(places(body, top.listed), top.listed, strict=True):
        assert (place.name, body[place.value : place.end]) == (name, bytes(value))
    for name, value in dict(top.listed).items():
        assert repr(json.loads(bytes(value))) == repr(document[name])


def form_has_the_model_that_it_is_given(body: bytes, random: Random) -> None:
    """A form whose model was changed has that model alone. The first line of the input is its content type."""
    kind, _, received = body.partition(b"\n")
    try:
        boundary = boundary_of(((b"content-type", kind.rstrip(b"\r")),))
        form = asyncio.run(Form.read(received, boundary))
    except GatepassError:
        return
    name = f"model-{random.random()}"
    changed, _ = form.as_model(name)
    assert asyncio.run(Form.read(changed, boundary)).model == name
    assert form.model is None or form.model.encode() == received[slice(*(form.span or ()))]


def framing_ignores_chunking(body: bytes, random: Random) -> None:
    """Events end where the standard defines it, for any chunks. No byte is lost, added or changed."""
    limit_bytes = random.choice((64, 1 << 20))
    framer = Framer(limit_bytes)
    runs = [framer.feed(part) for part in pieces(body, random)]
    out = b"".join(runs)
    events = list(_events(body))
    if limit_bytes > len(body):
        assert not framer.overflowed
        assert out + framer.tail == body
        assert split_events(out) in (events, events[:-1])
        assert split_events(out) == events or framer.tail == b"\r" or body.endswith(b"\n\r")
    else:
        assert body.startswith(out)
        # within each run: the LF of a CR LF may arrive alone
        assert all(len(one) <= limit_bytes for run in runs for one in split_events(run))
        assert len(framer.tail) <= limit_bytes
    assert b"".join(split_events(out)) == out


def _events(body: bytes) -> Iterator[bytes]:
    """Yield the complete events of `body`, line by line."""
    event = b""
    for line in _LINE.findall(body):
        event += line
        if not line.strip(b"\r\n"):
            yield event
            event = b""


def reply_is_token_or_failure(body: bytes, random: Random) -> None:
    """An issuer reply is a valid token or a FetchFailure, and the same after its JSON is encoded again.

    The first line of the input contains the status and the content type.
    """
    first, _, rest = body.partition(b"\n")
    status, _, kind = first.partition(b" ")
    headers = ((b"content-type", kind.rstrip(b"\r")),)
    reply_format = random.choice(REPLY_FORMATS)
    code = int(status) if re.fullmatch(rb"[1-5][0-9][0-9]", status) else 200
    reply = TimedTokenResponse(code, headers, rest, requested_s=0.0, wall_s=WALL_S, mask=str)
    found = _minted(reply, reply_format)
    if isinstance(found, Token):
        assert SENDABLE.fullmatch(found.text)
        assert 0 < stale_at_s(found, 0.0) <= MAX_LIFETIME_S  # `exp` may be any time
    else:
        assert 0 < len(found) <= LONGEST_REASON
        assert found.isprintable()
    if b"html" in kind.lower():
        return
    with contextlib.suppress(ValueError, RecursionError):
        document = json.loads(reply.text, parse_constant=_refuse)  # NaN is not JSON, even if a later member replaces it
        if isinstance(document, dict):  # a bare number is a token in its exact text
            anew = json.dumps(document, allow_nan=False).encode()  # 1e999 is infinite here
            assert _is_same(found, _minted(replace(reply, body=anew), reply_format)), (found, anew)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


def _is_same(one: Token | str, other: Token | str) -> bool:
    """Return whether both are equal tokens or both are failures. Reasons may contain the reply."""
    if isinstance(one, str) or isinstance(other, str):
        return isinstance(one, str) and isinstance(other, str)
    value = Secret("")  # a Secret equals only itself
    return one.text == other.text and structs.replace(one, value=value) == structs.replace(other, value=value)


def _minted(reply: TimedTokenResponse, reply_format: TokenReplyFormat) -> Token | str:
    try:
        return parse_token_response(reply, reply_format)
    except FetchFailure as failure:
        return failure.reason


def config_loads_or_is_rejected(body: bytes, random: Random) -> None:
    """A configuration is one that can be used, or a ConfigError whose problems have words; as JSON, YAML, variables."""
    text = body.decode("utf-8", "replace")
    try:
        document = parse_yaml("gatepass.json", text)
        assert document.problems or document.tree == json.loads(text) or _JSON_ONLY.search(text)
    except ConfigError as error:
        _check_messages(error)
    except (ValueError, RecursionError):  # YAML that is not JSON
        pass
    if random.random() < 0.3:
        _loaded(None, dict(line.split("=", 1) for line in text.splitlines() if "=" in line))
    elif "${file:" not in text:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / random.choice(("gatepass.yaml", "gatepass.json"))
            path.touch(0o600)
            path.write_bytes(body)
            _loaded(str(path), {"LLM_KEY": "k" * 32})


def _loaded(path: str | None, environment: dict[str, str]) -> None:
    if "GATEPASS_CONFIG" in environment:
        return
    try:
        assert isinstance(load(path, environment), LoadedConfig)
    except ConfigError as error:
        _check_messages(error)


def _check_messages(error: ConfigError) -> None:
    assert error.problems
    assert all(problem.text.strip() for problem in error.problems)
    assert str(error).encode(), "it can be written"
