"""No value that gatepass knows as a secret leaves in any common spelling in a text that gatepass writes or quotes."""

import html
import json
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Mapping
from html.entities import html5
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gatepass.dialects.base import NOT_RELAYED, RELAYED, RELAYED_PREFIXES, ResponseHeaders
from gatepass.observability.capture import BODY_BYTES, CapturedBody
from gatepass.observability.redaction import MASK, Redactor
from tests.attacks import generated
from tests.attacks.conftest import Attack
from tests.unit.tokens.scripted import timed_response

PIECE_CHARS = 8
TEXT_CHARS = 64 * 1024


def _each(spell: Callable[[str], str]) -> Callable[[str], str]:
    return lambda secret: "".join(char if char.isascii() and char.isalnum() else spell(char) for char in secret)


def _some(escaped: str, spell: Callable[[str], str]) -> Callable[[str], str]:
    return lambda secret: "".join(spell(char) if char in escaped else char for char in secret)


_NAMES = {value: name for name, value in reversed(html5.items()) if len(value) == 1 and name.endswith(";")}


def _php(secret: str) -> str:
    return json.dumps(secret)[1:-1].replace("/", "\\/")


def _go(secret: str) -> str:
    """As encoding/json writes what html/template has escaped."""
    escaped = json.dumps(html.escape(secret))[1:-1]
    return escaped.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _percent(secret: str) -> str:
    return quote(secret, safe="")


SPELLINGS: Mapping[str, Callable[[str], str]] = {
    "itself": str,
    "html": html.escape,
    "html twice": lambda secret: html.escape(html.escape(secret)),
    "html, decimal": _each(lambda char: f"&#{ord(char)};"),
    "html, decimal, filled": _each(lambda char: f"&#{ord(char):05};"),
    "html, hexadecimal": _each(lambda char: f"&#x{ord(char):X};"),
    "html, Go": lambda secret: html.escape(secret).replace("&#x27;", "&#39;").replace("&quot;", "&#34;"),
    "html in json, Go": _go,
    "json twice in html twice": lambda secret: html.escape(html.escape(json.dumps(json.dumps(secret)[1:-1])[1:-1])),
    "json in html": lambda secret: html.escape(json.dumps(secret)[1:-1]),
    "html, .NET": _some("\"'&<>+", lambda char: f"&#x{ord(char):X};"),
    "html, mustache": _some("\"'&<>/`=", lambda char: f"&#x{ord(char):X};"),
    "html, names": lambda secret: "".join(f"&{_NAMES.get(char, '')}" if char in _NAMES else char for char in secret),
    "html, each letter": lambda secret: "".join(f"&#{ord(char)};" for char in secret),
    "html, .NET in json": lambda secret: json.dumps(_some("\"'&<>+", lambda char: f"&#x{ord(char):X};")(secret))[1:-1],
    "html of base64, .NET": lambda secret: b64encode(f"id:{secret}".encode()).decode().replace("+", "&#x2B;"),
    "json": lambda secret: json.dumps(secret)[1:-1],
    "json, unicode": lambda secret: json.dumps(secret, ensure_ascii=False)[1:-1],
    "json in json": lambda secret: json.dumps(json.dumps(secret)[1:-1])[1:-1],
    "json, escapes": _each(lambda char: "".join(f"\\u{ord(unit):04x}" for unit in char)),
    "json, escapes in capitals": _each(lambda char: "".join(f"\\u{ord(unit):04X}" for unit in char)),
    "php": _php,
    "php in json": lambda secret: json.dumps(_php(secret))[1:-1],
    "url": _percent,
    "url, small": lambda secret: _each(lambda char: "".join(f"%{octet:02x}" for octet in char.encode()))(secret),
    "form": quote_plus,
    "base64": lambda secret: b64encode(secret.encode()).decode(),
    "base64, one before": lambda secret: b64encode(b"\xff" + secret.encode() + b"~").decode(),
    "base64, two before": lambda secret: b64encode(b"id" + secret.encode()).decode(),
    "base64, basic": lambda secret: b64encode(f"client-id:{secret}".encode()).decode(),
    "base64, in a url": lambda secret: quote(b64encode(f"id:{secret}".encode()).decode(), safe=""),
    "base64url": lambda secret: urlsafe_b64encode(secret.encode()).decode().rstrip("="),
    "base64url, within": lambda secret: urlsafe_b64encode(f'{{"k":"{secret}"}}'.encode()).decode(),
    "base64, a form": lambda secret: b64encode(f"client_secret={quote_plus(secret)}".encode()).decode(),
    "base64, a json text": lambda secret: b64encode(json.dumps({"client_secret": secret}).encode()).decode(),
    "base64, php": lambda secret: b64encode(secret.encode()).decode().replace("/", "\\/"),
}

ODD = "&<>\"'/+=%\\ ~!@#$^*()_-.,:;?[]{}|`äß€"
SECRETS = st.one_of(
    st.text(st.sampled_from("abcXYZ019-_.~"), min_size=PIECE_CHARS, max_size=60),
    st.builds(
        lambda start, middle, end: start + middle + end,
        st.text(st.sampled_from("abzAZ059"), min_size=4, max_size=12),
        st.text(st.sampled_from(f"aZ09{ODD}"), min_size=2, max_size=24),
        st.text(st.sampled_from("abzAZ059"), min_size=4, max_size=300),
    ),
)
AROUND = st.text(st.sampled_from("xyz 248\"'=:&;,{}<>/%\\\n"), max_size=40)


def pieces(spelled: str) -> set[str]:
    return {spelled[at : at + PIECE_CHARS] for at in range(len(spelled) - PIECE_CHARS + 1)}


def shown(output: str, spelled: str, before: str, behind: str) -> str | None:
    """Return the piece of `spelled` in `output` that does not come from the surrounding text."""
    own = pieces(f"{before[-PIECE_CHARS:]}")
    around = pieces(before) | pieces(behind) | own
    found = sorted(piece for piece in pieces(spelled) - around if piece in output)
    return found[0] if found else None


def knowing(*secrets: str) -> Redactor:
    redactor = Redactor()
    for secret in secrets:
        redactor.learn(secret)
    return redactor


def certain(name: str, spelled: str, secret: str) -> str:
    """The part of `spelled` that the secret makes: base64 of more than the secret begins and ends with other text."""
    if name.endswith(("a form", "a json text")):
        return spelled[28:-6]
    if not name.startswith("base64"):
        return spelled
    if "basic" in name or "within" in name or name[-3:] == "url":
        return spelled[len(spelled) * 2 // 5 : len(spelled) * 4 // 5] if len(secret) > 40 else ""
    return spelled[2:-4]


KEPT = (
    "a/b&c<d>e'f\"g+h=i j%k",
    "&amp;amp;secret%25%2525",
    "p\\n\\x41\\u0041=3D=3d",
    "ff00ee11dd22",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaab",
)


@pytest.mark.attack("secrets: spellings")
@generated
@given(SECRETS, st.sampled_from(sorted(SPELLINGS)), AROUND, AROUND)
@example(KEPT[0], "html", "client_secret=", " is wrong")
@example(KEPT[1], "html", "&", ";")
@example(KEPT[3], "url", "%", "%")
@example(KEPT[4], "itself", "aaaa", "aaaa")
@example(KEPT[0] * 3, "base64, a form", "", "")
@example(KEPT[2] * 3, "base64, a json text", "", "")
@example(KEPT[0] * 3, "html, .NET", "&", "#x")
@example(KEPT[1], "html, each letter", "&amp", ";")
@example(f"abcd{ODD}" * 9, "html, each letter", "&#3", "&lt")
@example('zb59\\"0000', "html in json, Go", '\\"', "")
@example("abcd\\\\&efgh", "html in json, Go", "\\", "")
def test_no_spelling_of_a_secret_is_shown(attack: Attack, secret: str, name: str, before: str, behind: str) -> None:
    spelled = SPELLINGS[name](secret)
    redactor = knowing(secret)
    with attack.on_loop():
        output = redactor.mask(f"{before}{spelled}{behind}")
    found = shown(output, certain(name, spelled, secret), before, behind)
    attack.check(found is None, (secret, name, before, behind, output, found))


def test_each_spelling_is_hidden_and_no_cut_shows_a_part_of_one() -> None:
    for name, spell in SPELLINGS.items():
        for secret in ("ab/cd+ef=gh~ij.kl_mn-op", "a?b>c~d" * 9, 'odd"q\\uote-ä%', "a\nb\tc de"):
            spelled, redactor = spell(secret), knowing(secret)
            hidden = certain(name, spelled, secret)
            assert shown(redactor.mask(f'"token":"{spelled}".'), hidden, "", "") is None, (name, secret)
            for limit in range(4, 3 + len(spelled)):
                cut = redactor.beginning(f"say{spelled}.", limit)
                assert shown(cut, hidden, "", "") is None, (name, secret, limit)


NAMES = st.one_of(
    st.sampled_from(sorted(RELAYED | NOT_RELAYED)),
    st.sampled_from(RELAYED_PREFIXES).map(lambda prefix: prefix + b"echo"),
    st.from_regex(rb"\A[a-z_-]{1,20}\Z"),
)
CREDENTIAL_FIELDS = (
    *(b"authorization", b"x-api-key", b"x-auth-token", b"x-amz-security-token", b"x-ms-token-aad-access-token"),
    *(b"authentication-info", b"x-reproxy-url", b"set-cookie", b"proxy-authenticate", b"api-key", b"location"),
)


@pytest.mark.attack("secrets: response headers")
@generated
@given(st.lists(st.tuples(NAMES, st.sampled_from(sorted(SPELLINGS))), max_size=8), st.booleans(), SECRETS)
@example([(name, "itself") for name in CREDENTIAL_FIELDS], True, "a-secret-token-of-ours")
@example([(b"openai-version", "itself"), (b"cf-ray", "base64, basic")], False, "a-secret-token-of-ours")
@example([(b"content-type", "itself")], False, "a-secret-token-of-ours")
def test_no_header_carries_a_credential(
    attack: Attack, fields: list[tuple[bytes, str]], is_of_mcp: bool, secret: str
) -> None:
    known = [(name, SPELLINGS[spelling](secret).encode("latin-1", "replace")) for name, spelling in fields]
    unknown = [(name, b"of-a-user") for name in CREDENTIAL_FIELDS]
    chosen = ResponseHeaders(knowing(secret).holds, is_of_mcp=is_of_mcp)
    with attack.on_loop():
        relayed = chosen.select((*known, *unknown))
    is_spelled = secret.isascii()  # other values cannot be header values, so their replacement proves nothing
    through = [field for field in relayed if field[0] in CREDENTIAL_FIELDS or (is_spelled and field in known)]
    attack.check(not through, (through, secret))


HOSTILE: Mapping[str, tuple[str, str]] = {
    "a secret of one letter": ("a" * 300 + "b", "a" * TEXT_CHARS),
    "a secret of one letter, its head": ("a" * 3000 + "b", ("a" * 2999 + "c") * (TEXT_CHARS // 3000)),
    "percent signs": ("%25" * 40 + "x", "%2525" * (TEXT_CHARS // 5)),
    "ampersands": ("&amp;" * 20 + "x", "&amp;amp;" * (TEXT_CHARS // 9)),
    "backslashes": ("\\" * 40 + "x", "\\" * TEXT_CHARS),
    "equals signs": ("=3D" * 20 + "x", "=3D" * (TEXT_CHARS // 3)),
    "soft breaks": ("secret-value", "=\n" * (TEXT_CHARS // 2)),
    "nested soft breaks": ("secret-value", "=" * (TEXT_CHARS // 2) + "\n" * (TEXT_CHARS // 2)),
    "heads of tokens": ("eyJhbGciOiJSUzI1NiJ9." + "x" * 4000, ("eyJhbGciOiJSUzI1NiJ9." + "x" * 400) * 150),
    "base64 of one letter": ("\0" * 60 + "x", "A" * TEXT_CHARS),
    "hex of one letter": ("\x11" * 60 + "2", "1" * TEXT_CHARS),
    "escapes": ("secret-value", "secret-value&" + '\\"%41' * (TEXT_CHARS // 5)),
    "the secret itself": ("secret-value", "secret-value" * (TEXT_CHARS // 12)),
}


@pytest.mark.attack("secrets: hostile texts of 64 KiB")
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_text_is_masked_in_time(attack: Attack, name: str) -> None:
    secret, text = HOSTILE[name]
    redactor = knowing(secret)
    redactor.mask(f"{secret} {secret.encode().hex()}")  # patterns are compiled once
    with attack.on_loop():
        output = redactor.mask(text)
    attack.check(secret not in output, name)


@pytest.mark.parametrize("between", ["", " ", "\n", '\\"', "-"])
@pytest.mark.parametrize("cut", [0, 1])
async def test_no_secret_in_a_row_of_a_cut_captured_body_is_shown(between: str, cut: int) -> None:
    secret = "sk-" + "aZ9_" * 16
    redactor = knowing(secret, *(f"{number}-{'token' * 100}" for number in range(4)))
    text = (secret[: len(secret) - cut] + between) * 10_000
    shown_text = await CapturedBody(text[:BODY_BYTES].encode(), is_cut=True).shown(redactor)
    assert (secret if cut else secret[:8]) not in shown_text


@pytest.mark.attack("secrets: spellings")
def test_an_issuer_that_quotes_the_secret_in_its_page_shows_nothing(attack: Attack) -> None:
    secret = "s3cr/et&value<of>us"
    page = f"<html><head><title>{'.' * 390}{html.escape(secret)}</title></head></html>"
    from gatepass.tokens.issuer_error import error_response_failure

    reply = timed_response(400, ((b"content-type", b"text/html"),), page.encode(), mask=knowing(secret).mask)
    reason = error_response_failure(reply, "sso.example").reason
    attack.check("s3cr" not in reason, reason)


@pytest.mark.attack("secrets: spellings")
@pytest.mark.parametrize("charset", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
@pytest.mark.parametrize("text", ["the secret s3cr/et&välue is wrong", '{"error":"s3cr/et&välue"}'])
def test_no_charset_hides_a_secret_from_the_mask(attack: Attack, charset: str, text: str) -> None:
    from gatepass.dialects.reply_check import ReceivedReply, classify_error
    from gatepass.tokens.issuer_error import error_response_failure

    body, mask = text.encode(charset), knowing("s3cr/et&välue").mask
    reason = error_response_failure(timed_response(400, (), body, mask=mask), "sso.example").reason
    message = classify_error(ReceivedReply("chat", 400, (), body, mask=mask)).message
    attack.check(reason.count(MASK) == message.count(MASK) == 1, (reason, message))


def test_the_mask_leaves_what_is_no_secret() -> None:
    redactor = knowing("s3cr/et&value<of>us")
    text = "The client &lt;bot&gt; sent =3D and a\n=\nb &amp; c"
    assert redactor.mask(text) == text
    assert redactor.mask("aWQ6czNjci9ldCZ2YWx1ZTxvZj51cw==") == f"aWQ6{MASK}"
