"""The forms of a keep-alive: a comment for each profile, which its parser discards with nothing else."""

import pytest

from gatepass.config.access import BUILT_IN_PROFILES
from gatepass.protocols import PROTOCOLS
from gatepass.protocols.client_protocol import COMMENT, COMMENT_AFTER_ID
from gatepass.types import Call, Operation
from tests.unit.sse.streams import new_stream, text


@pytest.mark.parametrize("name", ["chat", "completions"])
@pytest.mark.parametrize("profile", BUILT_IN_PROFILES)
def test_a_keep_alive_is_a_comment_and_has_a_blank_line_where_the_client_gets_no_ids(name: str, profile: str):
    call = Call("7", Operation(name, "POST", f"/{name}", name, ""), "", "m", b"{}", ())
    stream = new_stream()
    before = [PROTOCOLS[name].keep_alive(BUILT_IN_PROFILES[profile], call, one) for one in (None, stream)]
    stream.feed(b"id: 1\n" + text("a"))
    after = PROTOCOLS[name].keep_alive(BUILT_IN_PROFILES[profile], call, stream)
    assert before == [COMMENT, COMMENT]
    assert after == (COMMENT if profile in ("ragflow", "dify") else COMMENT_AFTER_ID)
