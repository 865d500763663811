"""Decide whether an upstream's error means that it lacks the path of an operation, which a chat may serve instead."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace

from gatepass.dialects.hints import ABSENT, NO_PARAMS, OWN_PATH, is_about_model, says_no_path
from gatepass.errors import UpstreamErrorReply
from gatepass.learning.pointing import NEVER_CODES, Refusal, is_of_filter
from gatepass.learning.quotes import BODY_BYTES, top_of
from gatepass.types import Call

_OBJECTS = frozenset(("previous_response_id", "conversation", "prompt", "container"))
_OF_OBJECT = (
    rb'"(?:file_(?:id|url)"\s*:|vector_store_ids"\s*:|image_url"\s*:\s*(?:\{\s*"url"\s*:\s*)?"(?!data:)'
    rb'|type"\s*:\s*"(?:url|file|item_reference)"|container"\s*:\s*")'
)
"""Something that the upstream stores or fetches, so that it may be what is missing."""
_MAY_BE_OBJECT = (b'"file_', b'"file"', b'_store_ids"', b'url"', b'"item_reference"', b'"container"')
"""A part of each, for bodies in which a search for a pattern takes too long."""
_OTHERS = (
    r"(?i)\b(?:models?|deployments?|engines?|agents?|assistants?|images?|pictures?|audio|videos?|documents?|accounts?"
    r"|tenants?|subscriptions?|credentials?|api[ _-]?keys?|quota|permissions?|(?<!request )id)\b"
    r"|模型|部署|图片|密钥|权限"
)
_BLOCKED = r"(?i)\b(?:denied|forbidden|rejected|blocked)\b| \(id "
_OF_RELAY = r"(?s)\n\n\w+: .*| ?Received Model Group=.*"
"""What a relay adds about itself, such as LiteLLM's group of models."""
_NOUNS = frozenset(("tool", "stream", "thinking", "token", "role"))


def lacks_path(error: UpstreamErrorReply, call: Call, models: Collection[str]) -> bool:
    """Whether `error`, the answer to `call`, means that the upstream lacks the path of the operation.

    A 404, 405 or 501 means it, unless it speaks of something in the request (a model, one of `models`, a member) or
    quotes it. A 400 or 500 means it only by its words. It compares up to 1.5 MB, so it may run in a thread.
    """
    body, status, path = error.error_body, error.http_status, call.operation.path
    is_told = body is not None and says_no_path(body, status, path)
    if body is None or not (is_told or status in ABSENT) or is_of_filter(body, body.message):
        return False
    top, codes = top_of(call.body).values, {(body.code or "").lower(), (body.kind or "").lower()}
    names_object = any(top.get(name, {"null"}) != {"null"} for name in _OBJECTS)
    if len(call.body) > BODY_BYTES:
        names_object |= any(part in call.body for part in _MAY_BE_OBJECT)
    if names_object or (len(call.body) <= BODY_BYTES and re.search(_OF_OBJECT, call.body) is not None):
        return False
    if body.own:  # gatepass's sentence about an empty reply or a page
        return re.search(_BLOCKED, body.message) is None
    names = [rf"(?<![\w.-]){re.escape(name)}(?![\w-]|\.\w)" for name in models if len(name) > 2]
    names += () if is_told else (_OTHERS,)
    message = re.sub(_OF_RELAY, "", body.message)
    is_named = any(re.search(one, message) for one in names) or (body.param or "").strip().lower() not in NO_PARAMS
    if is_named or not NEVER_CODES.isdisjoint(codes) or is_about_model(body.code, message):
        return False
    if is_told:
        return True
    last = path.strip("/")
    text = re.sub(OWN_PATH.replace("LAST", re.escape(last)), "…", message)
    values = [value.decode("latin-1") for _, value in call.headers]
    refusal = Refusal.of(call.operation.members, 400, replace(body, message=text), call.body, values)
    if refusal is None or refusal.quotes is None or refusal.places or refusal.faults or _NOUNS & refusal.nouns:
        return False
    named = refusal.named().keys() | (refusal.sent.values.keys() & set(re.findall(r"\w+", text)))
    if named - {last}:
        return False
    sent = (*refusal.sent.texts, *values, *call.operation.request_headers)
    is_quoting = any(len(one.strip()) > 3 and not one.isalpha() and one in text for one in sent)
    return not is_quoting and not refusal.quotes.have_words_of(text)
