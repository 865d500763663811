"""What differs between protocols stands in their objects: no other module asks which protocol it has."""

import re
from pathlib import Path

import pytest

import gatepass
from gatepass.protocols import PROTOCOLS
from gatepass.protocols.client_protocol import ClientProtocol

SRC = Path(gatepass.__file__).parent
OWN = frozenset((SRC / "protocols").glob("*.py"))
COMPARED = r"(?:[!=]=|is(?: not)?|(?:not )?in) (?!None\b)"
NAMES = "|".join(sorted(PROTOCOLS))
CLASSES = "|".join(sorted({type(one).__name__ for one in PROTOCOLS.values()}))
ASKS = re.compile(
    rf"\bprotocol(?:\.name)? {COMPARED}|\boperation(?:\.name)? {COMPARED}\(?[\"'](?:{NAMES})[\"']"
    rf"|['\"](?:{NAMES})['\"] {COMPARED}protocol(?:\.name)?\b(?!\.)"
    rf"|is(?:instance|subclass)\([^()]*\b(?<!msgspec\.)(?:{CLASSES})\b|match \S*\b(?:protocol|operation)\b"
)


def test_no_module_compares_a_protocol_its_name_or_its_class():
    for asks in ("operation != 'responses'", "protocol is CHAT", "isinstance(protocol, Chat)", "match operation:"):
        assert ASKS.search(asks) is not None
    modules = [file for file in SRC.rglob("*.py") if file not in OWN]
    assert [f"{file}: {found[0]}" for file in modules for found in ASKS.finditer(file.read_text())] == []


@pytest.mark.parametrize("protocol", [name for name, one in PROTOCOLS.items() if "stream" in one.members])
def test_a_protocol_with_stream_converts_streams_and_whole_replies_into_each_other(protocol):
    own = type(PROTOCOLS[protocol])
    assert own.synthesize is not ClientProtocol.synthesize
    assert hasattr(own, "aggregate") or own.aggregator is not ClientProtocol.aggregator
