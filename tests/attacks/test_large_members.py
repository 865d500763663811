"""Hostile members of a request that are large in one piece: what a rule does with one must not hold the interpreter."""

import asyncio
from collections.abc import Callable

import pytest

from gatepass.auth.authenticator import LOCAL
from gatepass.auth.caller import Caller
from gatepass.auth.model_access import check_body_access, stored_member
from gatepass.draft import Change, Rule
from gatepass.errors import GatepassError
from gatepass.json_body import MOST_ESCAPES, TopLevel
from gatepass.mcp.access import check_call
from gatepass.normalize.members import Drop, JsonMemberPath
from gatepass.normalize.messages import join_text_parts, merge_roles, shorten_tool_ids, system_into_user
from gatepass.normalize.rules import BUILT_IN_RULES, ChangeRule
from gatepass.protocols.request import decode, read_body
from gatepass.protocols.rerank import RerankOptions
from gatepass.proxy.admission import Size
from gatepass.types import ClientRequest
from tests.attacks.conftest import Attack
from tests.attacks.test_rules import OPERATIONS, longest_pause_of_s, longest_pause_s
from tests.unit.normalize.calls import a_call

MIB = 1 << 20
PNG = b"iVBORw0KGgoAAAAA"
USER = b'{"role":"user","content":"u"}'


def chat(*listed: bytes, more: bytes = b"") -> bytes:
    return b"".join((b'{"model":"m"', more, b',"messages":[', b",".join(listed), b"]}"))


def message(role: bytes, name: bytes, value: bytes) -> bytes:
    return b'{"role":"%b","%b":%b}' % (role, name, value)


def part(kind: bytes, value: bytes) -> bytes:
    return b'[{"type":"%b","text":"%b"}]' % (kind, value)


def text(value: bytes) -> bytes:
    return b'"%b"' % value


def astral() -> bytes:
    """As text it takes four times its bytes."""
    return b"a" * (27 * MIB) + "\U0001f600".encode()


def words(size_bytes: int = 30 * MIB - 200) -> bytes:
    return b',"x":%b' % text(b"a " * (size_bytes // 2))


def many(value: bytes, count: int) -> bytes:
    return b"[%b%b]" % ((value + b",") * (count - 1), value)


def changed_by(change: Change) -> tuple[Rule, ...]:
    return (ChangeRule("rules", (change,)),)


NOT_NULL = changed_by(Drop(JsonMemberPath.parse("x"), frozenset(("null",))))
CASES: dict[str, tuple[tuple[Rule, ...], Callable[[], bytes]]] = {
    "an image's padding": (
        BUILT_IN_RULES,
        lambda: chat(message(b"user", b"images", text(PNG + b"=" * (30 * MIB)))),
    ),
    "an image's URL": (BUILT_IN_RULES, lambda: chat(message(b"user", b"images", text(b"http://h/" + astral())))),
    "words where null is dropped": (NOT_NULL, lambda: chat(USER, more=words())),
    "a part's text": (changed_by(join_text_parts), lambda: chat(message(b"user", b"content", part(b"text", astral())))),
    "a part's type": (changed_by(join_text_parts), lambda: chat(message(b"user", b"content", part(astral(), b"a")))),
    "neighbours": (changed_by(merge_roles), lambda: chat(USER, message(b"user", b"content", text(astral())))),
    "a role": (changed_by(merge_roles), lambda: chat(message(astral(), b"content", b'"u"'))),
    "a system message": (
        changed_by(system_into_user),
        lambda: chat(message(b"system", b"content", text(astral())), USER),
    ),
    "an id": (changed_by(shorten_tool_ids), lambda: chat(message(b"tool", b"tool_call_id", text(astral())))),
}


@pytest.mark.attack("rules: one large member")
@pytest.mark.parametrize("name", CASES)
def test_no_large_member_holds_the_interpreter(attack: Attack, name: str) -> None:
    rules, body = CASES[name]
    raw = body()
    attack.loop_s = asyncio.run(longest_pause_s("messages", raw, rules))


def body_of(member: bytes, *values: bytes) -> bytes:
    return b'{"model":"gpt-a",%b,"messages":[%b]}' % (member % values, USER)


def unended(backslashes: int) -> bytes:
    return b'{"model":"gpt-a","x":"%b' % (b"\\" * backslashes)


def rerank(top_n: bytes) -> bytes:
    return b'{"model":"m","query":"q","documents":["a"],"top_n":%b}' % top_n


LIMITED = Caller("bot", "bot", models=["gpt-*"])
CHAT = OPERATIONS["messages"]
CLIENT = ClientRequest("id", "POST", "/", (), "", 0.0)
READ: dict[str, tuple[Callable[[bytes], object], Callable[[], bytes]]] = {
    "a model": (lambda body: decode(CLIENT, CHAT, body, "me"), lambda: b'{"model":%b}' % text(astral())),
    "a name": (
        lambda body: decode(CLIENT, CHAT, body, "me"),
        lambda: body_of(b'%b:1,"x":{"MODEL":1}', text(astral())),
    ),
    "a name beside other models": (
        lambda body: check_body_access(LIMITED, read_body(body)),
        lambda: body_of(b'%b:1,"models":[]', text(astral())),
    ),
    "a name with escapes": (
        lambda body: decode(CLIENT, CHAT, body, "me"),
        lambda: body_of(b"%b:1", text(b'aaa\\"' * (MOST_ESCAPES - 1))),
    ),
    "escaped quotes": (
        lambda body: decode(CLIENT, CHAT, body, "me"),
        lambda: body_of(b'"x":%b', text(b'\\"' * (31 * MIB // 2))),
    ),
    "a list of models": (
        lambda body: check_body_access(LIMITED, TopLevel(body)),
        lambda: body_of(b'"models":%b', text(b"g," * (15 * MIB) + b"gpt-a")),
    ),
    "another model": (
        lambda body: check_body_access(LIMITED, TopLevel(body)),
        lambda: body_of(b'"fallbacks":[%b]', text(b"gpt-" + astral())),
    ),
    "a tool's model": (
        lambda body: check_body_access(LIMITED, TopLevel(body)),
        lambda: body_of(b'"tools":[{"model":%b}]', text(b"gpt-" + astral())),
    ),
    "backslashes without an end": (lambda body: decode(CLIENT, CHAT, body, "me"), lambda: unended(16 * MIB)),
    "backslashes without an end for an MCP server": (
        lambda body: check_call(body, (), ["a"], LOCAL),
        lambda: unended(39 * MIB // 10),
    ),
    "a number of results": (RerankOptions.of, lambda: rerank(text(astral()))),
    "a number of results with escapes": (RerankOptions.of, lambda: rerank(text(b"\\u4e2d" * (5 * MIB - 100)))),
}


@pytest.mark.attack("requests: one large member")
@pytest.mark.parametrize("name", READ)
def test_no_large_member_holds_the_interpreter_while_it_is_read(attack: Attack, name: str) -> None:
    read, body = READ[name]
    raw = body()

    def rejected() -> None:
        with pytest.raises(GatepassError):
            read(raw)

    attack.loop_s = asyncio.run(longest_pause_of_s(asyncio.to_thread(rejected)))


RECORD = b'{\\"id\\": 12345, \\"name\\": \\"Alice Example\\", \\"tags\\": [\\"a\\", \\"b\\"]}\\n'
TEXTS: dict[str, Callable[[], bytes]] = {
    "escaped quotes": lambda: text(b'\\"' * (8 * MIB)),
    "an export of JSON": lambda: text(RECORD * (16 * MIB // len(RECORD))),
    "backslashes": lambda: text(b"\\\\" * (8 * MIB)),
    "texts of escaped quotes": lambda: many(text(b'\\"' * 500), 16 * 1024),
    "blanks": lambda: b"[1%b]" % (b" " * 16 * MIB),
    "blanks behind a name": lambda: b'{"prompt"%b:1}' % (b" " * 16 * MIB),
}


@pytest.mark.attack("requests: names beside one large member")
@pytest.mark.parametrize("name", TEXTS)
def test_no_search_for_names_holds_the_interpreter(attack: Attack, name: str) -> None:
    raw = body_of(b'"x":%b', TEXTS[name]())
    for check in (lambda: check_body_access(LIMITED, TopLevel(raw)), lambda: stored_member(TopLevel(raw))):
        attack.loop_s = max(attack.loop_s, asyncio.run(longest_pause_of_s(asyncio.to_thread(check))))


def parts(*listed: bytes) -> bytes:
    return chat(message(b"user", b"content", b"[%b]" % b",".join(listed)))


ESTIMATED: dict[str, tuple[Callable[[], bytes], int]] = {
    "semicolons": (lambda: chat(message(b"user", b"content", text(b";" * (31 * MIB)))), 31 * MIB // 4),
    "beginnings of data URLs": (
        lambda: chat(message(b"user", b"content", text(b";base64," * (31 * MIB // 8)))),
        31 * MIB // 4,
    ),
    "spaced names": (lambda: parts(text(b'\\"data\\" : ' * (31 * MIB // 11))), 31 * MIB // 4),
    "astral letters": (lambda: chat(message(b"user", b"content", text(astral()))), 27 * MIB // 4),
    "a picture": (lambda: parts(b'{"type":"image_url","image_url":%b}' % text(b"A" * (31 * MIB))), 1_000),
    "a user": (lambda: chat(USER, more=b',"user":%b' % text(b"\\u00e9" * (5 * MIB))), 30 * MIB // 4),
    "a number": (lambda: chat(USER, more=b',"max_tokens":%b' % (b"9" * (31 * MIB))), 31 * MIB // 4),
    "many parts": (lambda: parts(*[b'{"type":1}'] * 160_000), 160_000 * 11 // 4),
    "empty messages": (lambda: chat(*[b"{ }"] * 490_000), 490_000 * 4 // 4),
    "short messages": (lambda: chat(*[b'{"content":"a"}'] * 490_000), 490_000 * 16 // 4),
    "many messages": (lambda: chat(*[b'{"content":[]}'] * 90_000), 90_000 * 15 // 4),
    "many names": (lambda: b"{%b}" % b",".join(b'"n%d":{}' % at for at in range(999)), 2_400),
    "metadata": (lambda: chat(USER, more=b',"metadata":{"a":%b}' % many(b"{}", 150_000)), 150_000 * 3 // 4),
}


@pytest.mark.attack("requests: estimate of tokens")
@pytest.mark.parametrize("name", ESTIMATED)
def test_no_estimate_of_tokens_holds_the_interpreter(attack: Attack, name: str) -> None:
    body, tokens = ESTIMATED[name]
    raw, found = body(), list[Size]()
    attack.loop_s = asyncio.run(longest_pause_of_s(asyncio.to_thread(lambda: found.append(Size.of(a_call(raw))))))
    attack.check(tokens <= found[0].input_tokens <= tokens + 300, found)
