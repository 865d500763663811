"""`type: http_json`: a login with one custom HTTP request, and HMAC signatures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    field_serializer,
    model_validator,
)

from gatepass.config.block import Block, SecretText, Url
from gatepass.config.credential.base import Credential, HttpReply, settings_error
from gatepass.config.document import leaves, with_leaves
from gatepass.types import Secret

SIGNATURE = "signature"
PER_REQUEST = ("timestamp", "timestamp_ms", "time", "nonce")
"""Values that differ in each request: epoch seconds, epoch milliseconds, ISO 8601 in UTC, and 32 random hexadecimal
digits."""
BODIES = ("body", "body_sha256")
OF_REQUEST = ("method", "path", *BODIES)
"""Parts of the request, allowed only in `sign.text`."""
_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_.-]*)\}")
_NUMBER = re.compile(r"\{(timestamp|timestamp_ms):number\}\Z")
"""A whole text of a JSON body that becomes a number, because some issuers reject a time that is a string."""


class Sign(Block):
    algorithm: Literal["sha256", "sha1", "sha512"] = "sha256"
    """The hash of the HMAC (RFC 2104)."""
    secret: SecretText
    """The key of the HMAC.

    Example: ${SIGN_KEY}
    """
    encoding: Literal["hex", "base64"] = "hex"
    """The encoding of the signature: `hex` in lower case, or `base64`."""
    text: Annotated[str, Field(min_length=1)]
    """The text to sign.

    It may contain the placeholders of `sign` except `{signature}`, and `{method}`, `{path}` (of
    the URL, without its query), `{body}` and `{body_sha256}` (the body as sent). The name of a member of `query`,
    `form`, the JSON body or `headers`, in this order, stands for its value. Other text is signed unchanged. An
    unknown name is an error at load.

    Example: '{app_id}{timestamp}{nonce}'
    """


def names_in(text: str) -> list[str]:
    """Return the name of each `{name}` in a template, in order."""
    return _PLACEHOLDER.findall(text)


def is_placeholder(text: str) -> bool:
    """Whether the whole `text` is always replaced, so that it holds no secret and may be shown."""
    match = _NUMBER.match(text) or _PLACEHOLDER.fullmatch(text)
    return match is not None and match[1] in (*PER_REQUEST, SIGNATURE)


def with_values(text: str, values: Mapping[str, str]) -> str:
    """Return `text` with each `{name}` of `values` replaced, in one pass."""
    return _PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), text)


def with_values_in(document: Any, values: Mapping[str, str]) -> Any:
    """Return a JSON document with each text filled; a whole `{timestamp:number}` becomes a number."""

    def filled(leaf: Any) -> Any:
        if not isinstance(leaf, str):
            return leaf
        number = _NUMBER.match(leaf)
        return int(values[number[1]]) if number and number[1] in values else with_values(leaf, values)

    return with_leaves(document, filled)


def unsigned(sign: Sign, members: Iterable[str], signed: Iterable[str], bodies: Iterable[str]) -> Iterator[str]:
    """Yield why `sign` cannot work.

    `members` are the names that its text may use in addition to the built-in ones, `signed` are all texts of the
    request, `bodies` are those of its body.
    """
    names = names_in(sign.text)
    known = {*PER_REQUEST, *OF_REQUEST, *members}
    for name in dict.fromkeys(names):
        if name == SIGNATURE:
            yield "holds {signature}, but it is the text that is signed"
        elif name not in known:
            listed = ", ".join(f"{{{it}}}" for it in sorted(known))
            yield f"contains {{{name}}}, which is neither a member of query, form, json or headers nor one of {listed}"
    if not any(SIGNATURE in names_in(text) for text in signed):
        yield "is never sent: put {signature} into headers, query, form or json"
    elif any(name in BODIES for name in names) and any(SIGNATURE in names_in(text) for text in bodies):
        yield "signs a body that holds {signature}: put {signature} into headers or query"


SHOWN = frozenset(("grant_type", "response_type", "scope", "accept", "content-type", "nocatalog"))
"""Members that never hold a secret: `gatepass check` shows their values."""


class Basic(Block):
    username: str
    """The user name.

    Example: bot
    """
    password: SecretText
    """The password.

    Example: ${BOT_PASSWORD}
    """


class HttpJsonCredential(Credential):
    """A custom login: one HTTP request whose JSON or plain text reply holds a token. Example: `{type: http_json, url:
    https://llm.corp.example/login, json: {id: bot, key: "${BOT_KEY}"}, reply: {token: data.token}}`."""

    type: Literal["http_json"]
    """The type of the token source."""
    url: Url
    """The URL of the token endpoint.

    Example: https://llm.corp.example/login

    Danger: gatepass may print this URL. Put secrets into `query`, `headers` or the body.
    """
    method: Literal["GET", "POST", "PUT", "PATCH"] = "POST"
    """The HTTP method."""
    headers: dict[str, SecretText] = {}
    """Headers to send.

    Example: {X-App: gatepass}
    """
    query: dict[str, SecretText] = {}
    """Query parameters to append to the URL. gatepass never logs them.

    Example: {app_id: "${APP_ID}"}

    Danger: The issuer's own log may contain them.
    """
    json_body: Annotated[Any, Field(alias="json", repr=False)] = None  # keeps its References, to be read again
    """A JSON body of any shape; references inside its texts are resolved.

    Example: {id: bot, key: "${BOT_KEY}"}
    """
    form: dict[str, SecretText] | None = None
    """A form body; exclusive with `json`.

    Example: {grant_type: key, key: "${BOT_KEY}"}
    """
    basic: Basic | None = None
    """A user name and password to send unchanged as `Authorization: Basic` (RFC 7617).

    Example: {username: bot, password: "${BOT_PASSWORD}"}
    """
    sign: Sign | None = None
    """Sign each request with an HMAC.

    gatepass then replaces placeholders in the texts of `headers`, `query`, `form` and `json`:

    - `{timestamp}` and `{timestamp_ms}`: the time in epoch seconds and milliseconds. A text in JSON that is only
      `{timestamp:number}` becomes a number.
    - `{time}`: the time as ISO 8601, such as `2027-01-15T08:00:00Z`
    - `{nonce}`: 32 random hexadecimal digits
    - `{signature}`: the HMAC of `sign.text`

    Use `type: exec` for any other scheme.

    Example: {secret: "${SIGN_KEY}", text: "{app_id}{timestamp}"}
    """
    reply: HttpReply = HttpReply()
    """Where the token and its lifetime are in the reply.

    Example: {token: data.token, expiry: data.ttl}
    """

    @model_validator(mode="after")
    def _one_body(self) -> Self:
        if self.json_body is not None and self.form is not None:
            raise ValueError("json and form exclude each other")
        if self.method == "GET" and (self.json_body is not None or self.form is not None):
            raise ValueError("a GET has no body: use query, or method: POST")
        if self.basic is not None and "authorization" in map(str.lower, self.headers):
            raise ValueError("basic and a header Authorization exclude each other")
        return self

    @model_validator(mode="after")
    def _signature_is_possible(self) -> Self:
        if self.sign is None:
            return self
        bodies = [*_texts(self.form or {}), *_texts(self.json_body)]
        signed = [*_texts(self.headers), *_texts(self.query), *bodies]
        document = self.json_body if isinstance(self.json_body, Mapping) else {}
        members = [
            name
            for block in (self.query, self.form or {}, document, self.headers)
            for name, value in block.items()
            if all(SIGNATURE not in names_in(text) for text in _texts(value))  # the text cannot contain its signature
        ]
        if found := [("sign.text", text) for text in unsigned(self.sign, members, signed, bodies)]:
            raise settings_error(type(self).__name__, found)
        return self

    @field_serializer("headers", "query", "form", mode="wrap")
    def _hide_secrets(self, block: dict[str, Secret] | None, serialize: SerializerFunctionWrapHandler) -> Any:
        if block is None:
            return None
        shown = serialize(block)
        for name, value in block.items():
            for text in _read(value):
                if name.lower() in SHOWN or is_placeholder(text):
                    shown[name] = text
        return shown

    @field_serializer("json_body")
    def _hide_texts(self, document: Any) -> Any:
        if document is None:
            return None
        return with_leaves(
            document, lambda leaf: leaf if isinstance(leaf, str) and is_placeholder(leaf) else "(hidden)"
        )


def _texts(document: Any) -> Iterator[str]:
    """Yield every text in a block of secrets or a JSON document; unreadable secrets are left out."""
    for _, leaf in leaves(document):
        if isinstance(leaf, Secret):
            yield from _read(leaf)
        elif isinstance(leaf, str):
            yield leaf


def _read(secret: Secret) -> Iterator[str]:
    try:
        yield secret.reveal()
    except ValueError:
        return
