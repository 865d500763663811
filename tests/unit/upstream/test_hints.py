import re

import pytest

from gatepass.upstream.hints import HINTS, sentence, with_hint

STREAM = "Unsupported value: 'stream' does not support true with this model."
VERIFY = (
    "Your organization must be verified to stream this model. Please go to: "
    "https://platform.openai.com/settings/organization/general and click on Verify Organization."
)
APIM = (
    "Access denied due to missing subscription key."
    " Make sure to include subscription key when making requests to an API."
)
DEPLOYMENT = (
    "The API deployment for this resource does not exist. If you created the deployment within the last 5 minutes"
)
NO_STREAM = (
    " This model cannot stream: set stream to false in the client, for gatepass does not yet turn a whole reply"
    " into a stream."
)
UNVERIFIED = " Without that verification this model answers only as a whole: set stream to false in the client."
DOUBLED = (
    " Part of the path is doubled: upstreams.chat.base_url ends with the version, such as https://host/v1, and not"
    " with the operation."
)
PATH = " The path may be wrong: upstreams.chat.base_url ends with the version, such as https://host/v1."


@pytest.mark.parametrize(
    ("status", "message", "hint"),
    [
        (400, STREAM + " Only the default (false) value is supported.", NO_STREAM),
        (400, STREAM + " Supported values are: false.", NO_STREAM),
        (502, "stream does not support true with this model.", NO_STREAM),
        (400, VERIFY, UNVERIFIED),
        (400, "Your organization must be verified to use the model.", ""),
        (
            401,
            APIM,
            (
                " The gateway (Azure API Management) wants a header of its own beside the token: let the client send"
                " Ocp-Apim-Subscription-Key and name it in upstreams.chat.forward_headers."
            ),
        ),
        (
            401,
            "No API key found in request",
            (
                ". The gateway (Kong) wants a header of its own: let the client send apikey and name it in"
                " upstreams.chat.forward_headers."
            ),
        ),
        (
            404,
            DEPLOYMENT,
            ". Azure wants the name of a deployment as the model: set `name` of this model under `models`.",
        ),
        (
            404,
            "Resource not found",
            (
                ". The path may be wrong: for Azure upstreams.chat.base_url is"
                " https://RESOURCE.openai.azure.com/openai/v1, which needs no api-version."
            ),
        ),
        (
            400,
            "API version not supported",
            ". Azure's v1 API needs no api-version: let upstreams.chat.base_url end in /openai/v1.",
        ),
        (404, "Invalid URL (POST /v1/v1/chat/completions)", "." + DOUBLED),
        (404, "Cannot POST /v1/chat/completions/chat/completions.", DOUBLED),
        (404, "Not Found", "." + PATH),
        (404, "404 page not found", "." + PATH),
        (404, "The model `gpt-9` does not exist", ""),
        (400, "Not Found", ""),
        (500, "boom", ""),
    ],
)
def test_known_text_gets_one_sentence_of_advice(status, message, hint):
    assert with_hint(message, "chat", status) == message + hint


def test_advice_is_one_sentence_each():
    assert [hint.advice for hint in HINTS if re.search(r"[.!?] [A-Z]", hint.advice) or hint.advice[-1] != "."] == []


def test_sentence_ends_once():
    assert [sentence(text) for text in ("a", "a.", "a!", "a?", "a…", "参数非法。")] == [
        "a.",
        "a.",
        "a!",
        "a?",
        "a…",
        "参数非法。",
    ]
