"""A request as it was configured, each text in it read; not yet in the form of a wire."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlencode

from gatepass.call import Request
from gatepass.config.credential.sign import with_values, with_values_in
from gatepass.tokens.failure import FetchFailure
from gatepass.tokens.issuer import HEADERS

FORM = b"application/x-www-form-urlencoded"
JSON = b"application/json"


@dataclass(frozen=True, slots=True)
class Draft:
    """`document` is the JSON body; where it and `form` are None there is no body."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    query: Mapping[str, str] = field(default_factory=dict, repr=False)
    form: Mapping[str, str] | None = field(default=None, repr=False)
    document: Any = field(default=None, repr=False)

    def body(self) -> bytes:
        if self.form is not None:
            return urlencode(self.form).encode()
        if self.document is None:
            return b""
        return json.dumps(self.document, ensure_ascii=False, separators=(",", ":")).encode()

    def filled(self, values: Mapping[str, str]) -> Draft:
        """The same with each `{name}` of `values` replaced in headers, query, form and JSON texts."""
        return replace(
            self,
            headers=_filled(self.headers, values),
            query=_filled(self.query, values),
            form=None if self.form is None else _filled(self.form, values),
            document=with_values_in(self.document, values, str),
        )

    def request(self) -> Request:
        """As it goes out; raises FetchFailure for a header that cannot."""
        headers = dict(HEADERS)
        if self.form is not None or self.document is not None:
            headers[b"content-type"] = JSON if self.form is None else FORM
        headers.update(_field(name, value) for name, value in self.headers.items())
        return Request(self.method, self._target(), tuple(headers.items()), self.body())

    def _target(self) -> str:
        if not self.query:
            return self.url
        return f"{self.url}{'&' if '?' in self.url else '?'}{urlencode(self.query)}"


def _filled(fields: Mapping[str, str], values: Mapping[str, str]) -> dict[str, str]:
    return {name: with_values(text, values) for name, text in fields.items()}


def _field(name: str, text: str) -> tuple[bytes, bytes]:
    if any(c in text for c in "\r\n\0"):
        raise FetchFailure(f"headers.{name} holds a line break, which no header may", definite=True)
    return name.lower().encode(), text.encode()
