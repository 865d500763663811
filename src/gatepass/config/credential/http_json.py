"""`type: http_json`: a login with one custom HTTP request."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, field_serializer

from gatepass.config.block import Block, SecretText, SettingFault, Url
from gatepass.config.credential.base import Credential, HttpReply
from gatepass.config.document import with_leaves


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
    reply: HttpReply = HttpReply()
    """Where the token and its lifetime are in the reply.

    Example: {token: data.token, expiry: data.ttl}
    """

    def faults(self) -> Iterator[SettingFault]:
        if self.json_body is not None and self.form is not None:
            yield "", "json and form exclude each other"
        elif self.method == "GET" and (self.json_body is not None or self.form is not None):
            yield "", "a GET has no body: use query, or method: POST"
        elif self.basic is not None and "authorization" in map(str.lower, self.headers):
            yield "", "basic and a header Authorization exclude each other"

    @field_serializer("json_body")
    def _hide_texts(self, document: Any) -> Any:
        return None if document is None else with_leaves(document, lambda _: "(hidden)")
