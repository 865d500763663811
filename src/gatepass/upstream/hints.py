"""One sentence of advice beside an upstream's own text, where that text is known and unclear."""

from __future__ import annotations

import re
from dataclasses import dataclass

from gatepass.upstream.wording import MESSAGE_CHARS


@dataclass(frozen=True, slots=True)
class Hint:
    """`advice` for an error whose text matches `pattern` and whose status is `status` (None: any)."""

    pattern: re.Pattern[str]
    advice: str
    status: int | None = None


def _hint(pattern: str, advice: str, status: int | None = None) -> Hint:
    return Hint(re.compile(pattern, re.IGNORECASE), advice, status)


HINTS = (
    _hint(
        r"'?stream'? does not support true",
        "This model cannot stream: set stream to false in the client, for gatepass does not yet turn"
        " a whole reply into a stream.",
    ),
    _hint(
        r"must be verified to stream",
        "Without that verification this model answers only as a whole: set stream to false in the client.",
    ),
    _hint(
        r"missing subscription key",
        "The gateway (Azure API Management) wants a header of its own beside the token: let the client send"
        " Ocp-Apim-Subscription-Key and name it in upstreams.{upstream}.forward_headers.",
    ),
    _hint(
        r"no api key found in request",
        "The gateway (Kong) wants a header of its own: let the client send apikey and name it in"
        " upstreams.{upstream}.forward_headers.",
    ),
    _hint(
        r"API deployment for this resource does not exist|DeploymentNotFound",
        "Azure wants the name of a deployment as the model: set `name` of this model under `models`.",
        404,
    ),
    _hint(
        r"^resource not found\.?$",
        "The path may be wrong: for Azure upstreams.{upstream}.base_url is"
        " https://RESOURCE.openai.azure.com/openai/v1, which needs no api-version.",
        404,
    ),
    _hint(
        r"api version not supported",
        "Azure's v1 API needs no api-version: let upstreams.{upstream}.base_url end in /openai/v1.",
    ),
    _hint(
        r"/v\d+/v\d+/|(/chat/completions|/embeddings|/models).{0,200}\1",
        "Part of the path is doubled: upstreams.{upstream}.base_url ends with the version, such as"
        " https://host/v1, and not with the operation.",
        404,
    ),
    _hint(
        r"^not found\.?$|\binvalid url\b|\bcannot post\b|^404 page not found$|no static resource",
        "The path may be wrong: upstreams.{upstream}.base_url ends with the version, such as https://host/v1.",
        404,
    ),
)


def with_hint(message: str, upstream: str, status: int) -> str:
    """`message`, and a sentence of advice behind it where one is known."""
    for hint in HINTS:
        if hint.status in (None, status) and hint.pattern.search(message[:MESSAGE_CHARS]):
            return f"{sentence(message)} {hint.advice.format(upstream=upstream)}"
    return message


def sentence(text: str) -> str:
    """`text` with a full stop at its end."""
    return text if text.endswith((".", "!", "?", "…", "。")) else f"{text}."
