"""JSON values, and the many texts that one value can be written as."""

import json
from collections.abc import Callable
from typing import Any

import msgspec
from hypothesis import strategies as st

from gatepass.protocols.translation.chat_request import About, Dropped

GAPS = st.sampled_from(["", "", "", " ", "\n", "\t \r\n"])
NAMES = st.sampled_from(["a", "text", "model", "stream", "images", "drop_params", "é", "\\u0061", '"images"', "😀"])
STRINGS = st.one_of(NAMES, st.text(max_size=8), st.sampled_from(['"', "\\", '\\"images"', "{[", "]}", "\u0000", "/"]))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), STRINGS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(STRINGS, inner, max_size=3)),
    max_leaves=8,
)


@st.composite
def written(draw: st.DrawFn, value: Any, *, escaped_names: bool = True) -> str:
    """`value` as JSON text with whitespace anywhere it may stand, and characters escaped at whim."""
    return draw(GAPS) + _write(draw, value, escaped_names) + draw(GAPS)


def _write(draw: st.DrawFn, value: Any, escaped_names: bool) -> str:
    if isinstance(value, dict):
        members = [
            f"{_string(draw, name, escaped_names)}{draw(GAPS)}:{draw(GAPS)}{_write(draw, inner, escaped_names)}"
            for name, inner in value.items()
        ]
        return "{" + _joined(draw, members) + "}"
    if isinstance(value, list):
        return "[" + _joined(draw, [_write(draw, inner, escaped_names) for inner in value]) + "]"
    return _string(draw, value, True) if isinstance(value, str) else json.dumps(value)


def _joined(draw: st.DrawFn, items: list[str]) -> str:
    return draw(GAPS) + ",".join(f"{draw(GAPS)}{item}{draw(GAPS)}" for item in items)


def _string(draw: st.DrawFn, value: str, may_escape: bool) -> str:
    style = draw(st.integers(0, 3)) if may_escape else 0
    if style == 3:
        units = value.encode("utf-16-be")
        return '"' + "".join(f"\\u{units[at] << 8 | units[at + 1]:04x}" for at in range(0, len(units), 2)) + '"'
    return json.dumps(value, ensure_ascii=style == 2)


def chat_of(translate: Callable[..., Any], request: Any, dropped: Dropped | None = None) -> tuple[Any, About]:
    """The chat that a translation makes of `request`, read, and what the answer needs."""
    members = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in request.items()}
    chat, about = translate(members, Dropped() if dropped is None else dropped)
    return msgspec.json.decode(msgspec.json.encode(chat)), about
