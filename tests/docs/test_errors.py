"""docs/reference/errors.md: each example is a message of its code, and the error objects are those of gatepass."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

from docs.error_messages import FAULTS, MESSAGES

from gatepass import errors
from gatepass.protocols.error_objects import error_object

DOCS = Path(__file__).parents[2] / "docs"
REFERENCE = (DOCS / "reference/errors.md").read_text()
PAGE = REFERENCE.partition("\n## Errors of the request\n")[0]
"""The part about all errors."""


def tree(base):
    for child in base.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child
            yield from tree(child)


BRANCHES = {errors.CallerError, errors.GatewayError, errors.UpstreamError, *tree(errors.CodedError), errors.CodedError}
CODED = {code for kind in tree(errors.CodedError) for code in kind.statuses}
OF_THE_UPSTREAM = {errors.UpstreamErrorReply, errors.UpstreamAuth, errors.UpstreamHtml}
"""Their status is the upstream's own."""


def codes() -> set[str]:
    plain = {kind.code for kind in tree(errors.GatepassError) if kind not in BRANCHES | {errors.UpstreamTimeout}}
    return (
        plain
        | CODED
        | {f"{errors.UpstreamTimeout.code}_{phase}" for phase in ("connect", "first_byte", "idle", "total")}
    )


def texts() -> Iterator[re.Pattern[str]]:
    """A pattern for each text of the code that is long enough to tell two messages apart."""
    for file in (DOCS.parent / "src/gatepass").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            fixed = [part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]
            if sum(map(len, fixed)) >= 20:
                whole = (re.escape(str(part.value)) if isinstance(part, ast.Constant) else ".*" for part in parts)
                yield re.compile("".join(whole))


def test_each_example_is_a_message_of_the_code():
    assert set(MESSAGES) == codes()
    known = list(texts())
    own = MESSAGES.keys() - FAULTS.keys() - {"upstream_error"}
    assert [code for code in own if not any(text.match(MESSAGES[code]) for text in known)] == []


def test_the_error_objects_of_the_page_are_those_of_gatepass():
    kinds = {kind.code: kind for kind in tree(errors.GatepassError)}
    shown = [json.loads(line) for line in re.findall(r'^(?:data: )?(\{"error".*)$', PAGE, re.MULTILINE)]
    assert len(shown) == 2
    for error in shown:
        part, _, name = error["error"]["hop"].partition(":")
        built = kinds[error["error"]["code"]](error["error"]["message"], **{part: name})
        assert error == error_object(built, error["error"]["request_id"])
