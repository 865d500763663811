"""One sentence of advice beside an upstream's own text, where that text is known and unclear."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from gatepass.dialects.error_body import MESSAGE_CHARS


@dataclass(frozen=True, slots=True)
class Hint:
    """`advice` for an error whose text matches `pattern` and whose status is `status` (None: any)."""

    pattern: re.Pattern[str]
    advice: str
    status: int | None = None


def _hint(pattern: str, advice: str, status: int | None = None) -> Hint:
    return Hint(re.compile(pattern, re.IGNORECASE), advice, status)


_NOTHING_THERE = r"^resource not found\.?$"
HINTS = (
    _hint(
        r"'?stream'? does not support true|must be verified to stream",
        "This model answers only as a whole.",
    ),
    _hint(
        r"must be verified to use",
        "The provider wants the account verified before it may use this model: no setting of gatepass changes that.",
    ),
    _hint(
        r"last content of this conversation is not from user",
        "RAGFlow answers the user's words alone: the last message of the request has to be of role user.",
    ),
    _hint(
        r"missing subscription key",
        "The gateway (Azure API Management) wants the header Ocp-Apim-Subscription-Key: put it under"
        " upstreams.{upstream}.headers, or let upstreams.{upstream}.carry put the token there.",
    ),
    _hint(
        r"no api key found in request",
        "The gateway (Kong) wants a header of its own, mostly apikey: put it under upstreams.{upstream}.headers, or let"
        " upstreams.{upstream}.carry put the token there.",
    ),
    _hint(
        r"API deployment for this resource does not exist|DeploymentNotFound",
        "Azure wants the name of a deployment for the model: set `name` of this model under `models` to it.",
        404,
    ),
    _hint(
        _NOTHING_THERE,
        "The path may be wrong: for Azure set upstreams.{upstream}.dialect: azure, which builds it, and let"
        " upstreams.{upstream}.base_url end at the resource, such as https://RESOURCE.openai.azure.com.",
        404,
    ),
    _hint(
        r"api version not supported",
        "Set upstreams.{upstream}.azure.api_version to a version that Azure has, such as 2024-10-21, or remove it: the"
        " v1 API needs none.",
    ),
    _hint(
        r"invalid subscription key or wrong API endpoint",
        "Azure's keys belong to one resource: compare upstreams.{upstream}.base_url with the endpoint beside the key.",
    ),
    _hint(
        r"access token is missing, invalid, audience is incorrect",
        "Azure's classic API takes a key in the header api-key alone (a credential of type: api_key), and of Entra a"
        " token for https://cognitiveservices.azure.com/.default.",
    ),
    _hint(
        r"^you don't own the (chat|agent)",
        "RAGFlow has no such assistant for the owner of this token: set `name` of this model under `models` to its id,"
        " for an agent to agent:ID.",
    ),
    _hint(
        r"^`llm_id` .+ doesn't exist",
        "RAGFlow takes no model's name from outside: set upstreams.{upstream}.dialect: ragflow, which sends none.",
    ),
    _hint(
        r"\b(?:token|jwt|bearer|credentials?|session)\b.{0,60}\b(?:refused|invalid|expired?|missing|rejected|revoked"
        r"|wrong|denied|not (?:valid|found|recogni[sz]ed|accepted))\b"
        r"|\b(?:invalid|expired|bad|wrong|missing|unknown|revoked|no)\W+(?:\w+\W+){0,2}(?:token|jwt|bearer|credentials?)\b"
        r"|(?:token|令牌|凭证|登录).{0,10}(?:无效|过期|失效|错误|不存在|不合法)",
        "If that means the token, add upstreams.{upstream}.rejection.statuses: [403], which renews it (where it stands"
        " there, a new token was refused too).",
        403,
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
AZURE_CLASSIC = (
    _hint(
        _NOTHING_THERE,
        "Nothing is at the path that was built of three settings: upstreams.{upstream}.base_url ends at the resource,"
        " such as https://RESOURCE.openai.azure.com, upstreams.{upstream}.azure.api_version has this operation, and"
        " `name` of this model under `models` is the deployment's.",
        404,
    ),
    *HINTS,
)
"""For an upstream that has `dialect: azure` and a dated version: what is set need not be set again."""
AZURE_V1 = (
    _hint(
        _NOTHING_THERE,
        "Nothing is at the path of the v1 API: upstreams.{upstream}.base_url ends at the resource, such as"
        " https://RESOURCE.openai.azure.com, `name` of this model under `models` is the deployment's, and a resource"
        " that has the classic API alone wants upstreams.{upstream}.azure.api_version: a date, such as 2024-10-21.",
        404,
    ),
    *HINTS,
)
"""The same without a dated version."""

_NO_PATH = re.compile(
    r"^(?:not found|resource not found|method not allowed)\.?$|\binvalid url\b|\bcannot post\b|^404 page not found$"
    r"|no static resource|with an empty body|with an? (?:html )?page\b|unrecognized request url|/responses\b",
    re.IGNORECASE,
)
BY_CHAT = "by chat completions (n8n: responsesApiEnabled off in the node)"


def responses_hint(message: str, upstream: str, status: int) -> str | None:
    """The advice for an upstream's refusal of a call of the Responses API, in the place of `with_hint`'s; None: none.

    `message` is the upstream's own.
    """
    if status in (404, 405) and _NO_PATH.search(message[:MESSAGE_CHARS]):
        return (
            f"If chat completions work at upstreams.{upstream}, it has no Responses API: let the client ask {BY_CHAT},"
            " or name an upstream that has one by operations.responses of the entry under `models`."
        )
    return None


_NO_MODEL = re.compile(
    r"\b(?<!\bthis )model:? ?(?:['\"`]?[^\s'\"`]{1,200}['\"`]? )?(?:(?:does|is|was|do) ?n[o']t|not) (?:exist|found)\b"
    r"|\b(?:invalid|unknown|no such) model(?: name| id)?(?:\s*[:'\"`=(.]|\s+passed\b|\s*\Z)"
    r"|\bnot a valid model\b|模型不存在",
    re.IGNORECASE,
)
"""OpenAI and vLLM, Ollama, DeepSeek, Xinference; LiteLLM and Mistral; OpenRouter; Zhipu."""
_NO_MODEL_CODES = frozenset(("model_not_found", "invalid_model", "unknown_model"))


def model_hint(model: str, upstream: str, status: int, code: str | None, message: str) -> str | None:
    """The advice for an upstream that does not know `model`, a name that went up as the client sent it; None where it
    complains of something else. `code` and `message` are its own."""
    if status not in (400, 404, 422):
        return None
    if (code or "").lower() not in _NO_MODEL_CODES and _NO_MODEL.search(message[:MESSAGE_CHARS]) is None:
        return None
    return (
        f"The name {model[:100]!r} went up as the client sent it: where upstreams.{upstream} calls this model"
        f" otherwise, set models.{model[:100]}.name to what it is called there (with `upstream: {upstream}` beside it)."
    )


def token_hint(upstream: str, credential: str | None, age_s: float | None, not_renewed: str | None) -> str:
    """What was tried at an upstream that refuses the token, and what to do. `age_s`: how old the one was that it
    refused last; None for a key that does not expire. `not_renewed`: why there was no second one; None where it was
    the second one."""
    if credential is None:
        return (
            f"gatepass has no credential for it: set upstreams.{upstream}.credential, or correct the key where it"
            f" stands in upstreams.{upstream}.headers."
        )
    fetched = "" if age_s is None else f", fetched {_ago(age_s)}"
    if not_renewed is None:
        tried = f"Tried with the token of the credential {credential!r}, and once more with a new one{fetched}."
    elif age_s is None:
        tried = f"Tried once, with the key of the credential {credential!r}: there is no other."
    else:
        tried = f"Tried once, with the token of the credential {credential!r}{fetched}: {not_renewed}."
    return (
        f"{tried} `gatepass token {credential} --reveal` shows it: compare its audience and scope with what this"
        " upstream wants. `gatepass check --live --model NAME` tries it."
    )


def _ago(age_s: float) -> str:
    """In two digits at most: a number such as 429 would tell RAGFlow to repeat the request."""
    for size_s, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if age_s >= size_s:
            return f"{min(age_s // size_s, 99):.0f} {unit} ago"
    return f"{age_s:.0f} s ago"


def with_hint(message: str, upstream: str, status: int, hints: Sequence[Hint] = HINTS) -> str:
    """`message`, and a sentence of advice behind it where one is known: the first of `hints` that fits."""
    for hint in hints:
        if hint.status in (None, status) and hint.pattern.search(message[:MESSAGE_CHARS]):
            return f"{sentence(message)} {hint.advice.format(upstream=upstream)}"
    return message


def sentence(text: str) -> str:
    """`text` with a full stop at its end."""
    return text if text.endswith((".", "!", "?", "…", "。")) else f"{text}."
