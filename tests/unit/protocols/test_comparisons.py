"""What differs between protocols stands in their objects: no other module asks which protocol it has."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

import gatepass
from gatepass.protocols import PROTOCOLS
from gatepass.protocols.client_protocol import ClientProtocol

SRC = Path(gatepass.__file__).parent
OWN = {SRC / "operations" / "table.py", *(SRC / "protocols").glob("*.py")}
OBJECTS = {type(one).__name__ for one in PROTOCOLS.values()} | {name.upper() for name in PROTOCOLS}
NAMED = ("protocol", "operation")
"""Variables and attributes of these names hold a protocol, an operation, or the name of one."""


def holders(node: ast.expr) -> Iterator[str]:
    """Yield what `node` holds: `protocol` for `call.operation.protocol` and for `protocol.name`."""
    while isinstance(node, ast.Attribute):
        yield node.attr
        if node.attr != "name":
            return
        node = node.value
    if isinstance(node, ast.Name):
        yield node.id


def asks(left: ast.expr, right: ast.expr) -> bool:
    """Whether a comparison of both asks which protocol one of them is."""
    for one, other in ((left, right), (right, left)):
        held = set(holders(one))
        named = {constant.value for constant in ast.walk(other) if isinstance(constant, ast.Constant)}
        if "protocol" in held and not named <= {None}:
            return True
        if ("protocol" in held or OBJECTS & held) and not named:
            return True
        if "operation" in held and not named.isdisjoint(PROTOCOLS):
            return True
    return False


def comparisons(source: str) -> list[int]:
    """Return the lines that compare a protocol, its name or its class."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Compare():
                sides = [node.left, *node.comparators]
                if any(asks(left, right) for left, right in pairwise(sides)):
                    found.append(node.lineno)
            case ast.Call(func=ast.Name(id="isinstance" | "issubclass"), args=[_, kind]):
                if any(
                    isinstance(one, ast.Name | ast.Attribute) and OBJECTS & set(holders(one)) for one in ast.walk(kind)
                ):
                    found.append(node.lineno)
            case ast.Match() if set(NAMED) & set(holders(node.subject)):
                found.append(node.lineno)
    return found


@pytest.mark.parametrize(
    "source",
    [
        "call.operation.protocol == 'chat'",
        "protocol is CHAT",
        "'chat' == protocol.name",
        "call.operation.protocol in STREAMED",
        "operation.name == 'rerank'",
        "context.operation != 'responses'",
        "operation in ('chat', 'completions')",
        "isinstance(protocol, Chat)",
        "isinstance(one, (str, chat.Chat))",
        "match operation:\n    case 'chat': pass",
    ],
)
def test_a_comparison_is_found(source):
    assert comparisons(source) == [1]


def test_no_module_compares_a_protocol_its_name_or_its_class():
    modules = [file for file in SRC.rglob("*.py") if file not in OWN]
    assert [f"{file}:{line}" for file in modules for line in comparisons(file.read_text())] == []


@pytest.mark.parametrize("protocol", [name for name, one in PROTOCOLS.items() if "stream" in one.members])
def test_a_protocol_with_stream_converts_streams_and_whole_replies_into_each_other(protocol):
    own = type(PROTOCOLS[protocol])
    assert own.synthesize is not ClientProtocol.synthesize
    assert hasattr(own, "aggregate") or own.aggregator is not ClientProtocol.aggregator
