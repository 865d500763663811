import pytest

from gatepass.config.upstream import RejectionConfig
from gatepass.dialects.hints import AZURE_HINTS, Remedy, may_lack_model, model_hint, tried_with
from gatepass.dialects.ragflow import RagflowDialect
from gatepass.dialects.reply_check import ReceivedReply, classify_document, classify_error, with_hint
from gatepass.errors import UpstreamErrorReply, sentence
from gatepass.protocols.chat import CHAT
from gatepass.types import UpstreamErrorBody
from tests.unit.learning.rejections import STREAM, VERIFY

APIM = (
    "Access denied due to missing subscription key."
    " Make sure to include subscription key when making requests to an API."
)
DEPLOYMENT = (
    "The API deployment for this resource does not exist. If you created the deployment within the last 5 minutes"
)
VERSION = (
    ". Set `upstreams.chat.azure.api_version` to a version that Azure supports, such as 2024-10-21, or remove it to use"
    " the v1 API."
)
WRONG_KEY = (
    "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key for an"
    " active subscription and use a correct regional API endpoint for your resource."
)
AUDIENCE = (
    "Unauthorized. Access token is missing, invalid, audience is incorrect (https://cognitiveservices.azure.com), or"
    " have expired."
)
PATH = (
    " The upstream has no such path: upstreams.chat.base_url does not end with the version, such as https://host/v1, or"
    " it does not support this operation."
)


def hinted(message, status, **reply):
    found = with_hint(UpstreamErrorBody(message), status, ReceivedReply("chat", status, (), **reply))
    return " ".join(
        filter(None, (sentence(message) if found.cause or found.advice else message, found.cause, found.advice))
    )


@pytest.mark.parametrize(
    "message", ["404: Not Found", "404 Not Found", "404 page not found", "Page not found", "405: Method Not Allowed"]
)
def test_the_words_of_a_framework_for_an_unknown_path_name_the_version_in_base_url(message):
    assert hinted(message, int(message[:3]) if message[0] == "4" else 404) == f"{message}.{PATH}"


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ("Invalid", "tools.8.type"),
        ("'type' of tool must be 'function'", None),
        ("Output of tool call should be 'x'", None),
    ],
)
def test_a_responses_api_without_a_type_of_tool_is_left_by_a_setting(message, param):
    error = UpstreamErrorBody(message, param=param)
    advised = [
        with_hint(error, 400, ReceivedReply("chat", 400, (), operation=one)).advice for one in ("responses", "chat")
    ]
    assert "upstreams.chat.protocols: [chat]" in advised[0]
    assert advised[1] == ""


@pytest.mark.parametrize(
    ("status", "message", "hint"),
    [
        (400, STREAM, "does not support streaming"),
        (502, "stream does not support true with this model.", "does not support streaming"),
        (400, VERIFY, "does not support streaming"),
        (400, "The last content of this conversation is not from user.", "a last message with role user"),
        (400, "The conversation must end with a user message.", "a last message with role user"),
        (401, APIM, "`upstreams.chat.headers`, or set `upstreams.chat.token_placement`"),
        (404, DEPLOYMENT, "set `name` of this model under `models`"),
        (404, "Resource not found", "set `upstreams.chat.dialect: azure`"),
        (400, "API version not supported", "upstreams.chat.azure.api_version"),
        (404, "API version not supported", "upstreams.chat.azure.api_version"),
        (401, WRONG_KEY, "compare `upstreams.chat.base_url` with the endpoint of the key"),
        (401, AUDIENCE, "type: api_key"),
        (404, "You don't own the chat 2e3b", "agent:ID"),
        (404, "no authorization", "upstreams.chat.rejection.codes"),
        (400, "`llm_id` gpt-4 doesn't exist", "upstreams.chat.dialect: ragflow"),
        (404, "Invalid URL (POST /v1/v1/chat/completions)", "doubled: `upstreams.chat.base_url`"),
        (404, "Cannot POST /v1/chat/completions/chat/completions.", "doubled: `upstreams.chat.base_url`"),
        (403, "token refused", "upstreams.chat.rejection.statuses: [403]"),
        (403, "The access token has expired.", "upstreams.chat.rejection.statuses: [403]"),
        (403, "token无效", "upstreams.chat.rejection.statuses: [403]"),
        *(
            (403, text, "upstreams.chat.rejection.statuses: [403]")
            for text in ("API key is invalid!", "Invalid API-Key", "api_key expired")
        ),
        *(
            (403, text, "upstreams.chat.rejection.statuses: [403]")
            for text in (
                "RBAC: access denied",
                "Access Denied",
                "Forbidden",
                "Access is denied.",
                "ext_authz: forbidden",
            )
        ),
        *(
            (status, text, f"upstreams.chat.rejection.statuses: [{status}]")
            for status, text in (
                (500, "Invalid Credentials"),
                (500, "Unclassified Authentication Failure"),
                (440, "Login Time-out"),
                (440, "?"),
                (502, "<ams:fault><ams:code>900901</ams:code><ams:message>Invalid</ams:message></ams:fault>"),
                (503, "Authentication has failed for this request"),
            )
        ),
        *(
            (400, text, "under `upstreams.chat.headers`")
            for text in (
                "Either x-portkey-config or x-portkey-provider header is required",
                "Required request header 'X-Tenant-Id' for method parameter type String is not present",
                "Missing required header: X-App-Key",
                "anthropic-version: header is required",
                "This endpoint requires the headers X-Org and X-Project.",
                "缺少必需的请求头 X-App-Id",
                "header X-Group-Id must be provided",
                "请求头 X-Tenant-Id 不能为空",
            )
        ),
        (400, "Prompt exceeds max length", "Shorten the prompt"),
        (400, "length of prompt_tokens (70462) must be less than max_seq_len (65536).", "Shorten the prompt"),
        (400, "The number of input tokens should be smaller than `max_model_len`.", "Shorten the prompt"),
        (400, "input must have fewer than 512 tokens", "Shorten the prompt"),
        (400, "Prompt 超长", "Shorten the prompt"),
        (400, "<400> InternalError: Range of input length should be [1, 30720]", "Shorten the prompt"),
        *((404, one, None) for one in ("The model `gpt-9` does not exist",)),
        *((403, one, None) for one in ("You have no access to this model", "The prompt has too many tokens")),
        *((403, one, None) for one in ("Access denied for the prompt of this caller", "The content is forbidden.")),
        *((400, one, None) for one in ("Missing Authorization header", "max_tokens must be less than max_model_len")),
        *((400, one, None) for one in ("Missing boundary in the content-type header", "The header row is required")),
        *((400, one, None) for one in ("messages[0]: a table-like header is required", "tools[0]: header too long")),
        *((404, one, None) for one in ("model 900901 not found", "Model 'invalid credentials' not found")),
        (400, "messages[0].content: invalid credential format in the arguments", None),
        (400, DEPLOYMENT, None),
        (400, "This model's maximum context length is 4096 tokens.", None),
        (400, "The name of a tool exceeds the maximum length of 64.", None),
        (401, "token refused", None),
    ],
)
def test_known_text_gets_one_sentence_of_advice(status, message, hint):
    found = hinted(message, status)
    assert found.startswith(message)
    if hint is None:
        assert found == message
    else:
        assert hint in found.removeprefix(message)
        assert "{url}" not in found


REPLACE = "Replace the key in credentials.corp, then run `gatepass reload`, or restart gatepass for a variable."
NO_CREDENTIAL = "gatepass has no credential for it. Set upstreams.chat.credential."


@pytest.mark.parametrize(
    ("key", "advice", "hint"),
    [
        ("this key", REPLACE, f"If the upstream rejects this key, r{REPLACE[1:]}"),
        (None, NO_CREDENTIAL, NO_CREDENTIAL),
    ],
)
def test_a_403_that_gatepass_cannot_renew_is_not_advised_to_be_a_rejection(key, advice, hint):
    assert hinted("token refused", 403, key=key, rejected=Remedy(advice)) == f"token refused. {hint}"


def test_an_upstream_with_azures_dialect_is_not_advised_to_choose_it():
    found = hinted("Resource not found", 404, hints=AZURE_HINTS)
    assert "dialect: azure" not in found
    assert {"`upstreams.chat.base_url`", "`upstreams.chat.azure.api_version`", "`name`"} <= set(
        found.replace(":", "").split()
    )
    assert hinted("API version not supported", 404, hints=AZURE_HINTS) == "API version not supported" + VERSION


@pytest.mark.parametrize(
    ("paths", "message", "hint"),
    [
        ("old", "no authorization", "agent:ID"),
        ("current", "Not Found: /api/v1/openai/2e3b/chat", "upstreams.chat.ragflow: {paths: old}"),
        ("old", "Not Found: /api/v1/chats_openai/2e3b/chat", "remove `upstreams.chat.ragflow.paths`"),
        ("old", "404 page not found", "remove `upstreams.chat.ragflow.paths`"),
    ],
)
def test_only_an_upstream_with_ragflows_dialect_gets_its_advice(paths, message, hint):
    assert hint in hinted(message, 404, hints=RagflowDialect(paths=paths).hints)
    assert hint not in hinted(message, 404)


AGAIN = "its issuer returned the same token again"


@pytest.mark.parametrize(
    ("age_s", "not_renewed", "tried"),
    [
        (0.24, None, "Tried with the token of the credential 'corp', and again with a new one, requested 0 s ago."),
        (
            31.4,
            AGAIN,
            f"Tried once, with the token of the credential 'corp', requested 31 s ago: {AGAIN}.",
        ),
        (None, None, "Tried with the token of the credential 'corp', and again with a new one."),
    ],
)
def test_a_refused_token_is_reported_with_what_was_tried(age_s, not_renewed, tried):
    assert tried_with("corp", age_s, not_renewed) == tried


def test_two_new_tokens_a_key_and_no_credential_are_reported():
    assert tried_with("corp", None, AGAIN) == "Tried once, with the only key of the credential 'corp'."
    assert tried_with(None, None, None) == ""


@pytest.mark.parametrize(
    ("age_s", "age"),
    [(59, "59 s"), (60, "1 min"), (429, "7 min"), (3_600, "1 h"), (86_400, "1 d"), (429 * 86_400, "99 d")],
)
def test_no_age_looks_like_a_status(age_s, age):
    assert f"requested {age} ago" in tried_with("corp", age_s, None)


def refusal(status: int, code: str | None, message: str) -> UpstreamErrorReply:
    body = UpstreamErrorBody(message, code=code)
    return UpstreamErrorReply(message, upstream="chat", status=status, error_body=body)


@pytest.mark.parametrize(
    ("status", "code", "message", "is_meant"),
    [
        (404, "model_not_found", "The model `m` does not exist or you do not have access to it.", True),
        (404, "404", "The model `m` does not exist.", True),
        (404, None, 'model "m" not found, try pulling it first', True),
        (404, None, "Model not found: m", True),
        (400, "invalid_request_error", "Model Not Exist", True),
        (400, "400", "Invalid model name passed in model=m. Call `/v1/models` to view available models.", True),
        (400, "400", "m is not a valid model ID", True),
        (400, None, "Model not found in the model list, uid: m", True),
        (400, "1211", "模型不存在，请检查模型代码。", True),
        (404, "model_not_found", "in words that nobody knows", True),
        (422, None, "Unknown model", True),
        (404, "DeploymentNotFound", "The API deployment for this resource does not exist.", False),
        (404, None, "Not Found", False),
        (403, "model_not_found", "Project `p` does not have access to model `m`", False),
        (400, None, "This model does not support tools.", False),
        (400, "unsupported_parameter", "Unsupported parameter: 'seed' is not supported with this model.", False),
        (400, None, "The model `m` is not loaded; the file a.bin was not found", False),
        (500, None, "model not found", False),
        (404, None, "The tool 'search' for this model is not found", False),
        (400, None, "Invalid model parameter: temperature too high", False),
    ],
)
def test_an_unknown_model_is_reported_with_the_setting_of_its_name(status, code, message, is_meant):
    remedy = Remedy(
        "Correct the name in the client, or set models.m.name in the configuration file to the upstream's name for it."
        " `gatepass doctor m` lists its names.",
        "unknown_model",
        "models.m.name",
        "gatepass sent the client's model name 'm' unchanged.",
    )
    assert model_hint("m", refusal(status, code, message)) == (remedy if is_meant else None)


@pytest.mark.parametrize(
    ("route", "setting"),
    [
        ("models.a b.upstream", "models.a b.name"),
        ("models.m-*.targets", "models.m-*.targets[].name"),
        ("", "models.*.name"),
    ],
)
def test_an_unknown_model_that_the_configuration_renamed_is_reported_with_both_names(route, setting):
    hint = model_hint("a b", refusal(404, None, "The model `m-9` does not exist."), "m-9", route)
    advice = f"Set {setting} to a name that the upstream has. `gatepass doctor 'a b'` lists its names."
    cause = "gatepass sent 'm-9' for the client's model name 'a b'."
    assert hint == Remedy(advice, "renamed_model", setting, cause)
    unknown = refusal(404, None, "model not found")
    assert model_hint("m", unknown, "m", route) == model_hint("m", unknown)
    drawn = [model_hint("m", unknown, sent, route, "images") for sent in ("m", "m-9")]
    for remedy, end in zip(drawn, ("to the upstream's name for it.", "that the upstream has."), strict=True):
        assert remedy is not None
        assert remedy.advice.endswith(end)


@pytest.mark.parametrize(("block", "names_path"), [(b"", True), (b"Your support ID is: 4711-0815-123", False)])
def test_a_404_with_a_page_without_a_title_is_a_missing_path_unless_a_firewall_wrote_it(block, names_path):
    page = b"<html><body>%b</body></html>" % block
    error = classify_error(ReceivedReply("chat", 404, ((b"content-type", b"text/html"),), page))
    assert ("has no such path" in str(error)) is names_path


@pytest.mark.parametrize(
    ("status", "body", "setting"),
    [
        (400, b'{"error": {"code": "TokenExpired", "message": "Refresh it"}}', "codes: [TokenExpired]"),
        (400, b'{"code": "E1007", "msg": "The session has expired, please log in"}', "codes: [E1007]"),
        (400, b'{"message": "jwt expired"}', "statuses: [400]"),
        (404, '{"code": 70012, "msg": "登录已过期"}'.encode(), "codes: [70012]"),
        (419, b"<html><title>Page Expired</title>", "statuses: [419]"),
        (419, b'{"message": "CSRF"}', "statuses: [419]"),
        (498, b"", "statuses: [498]"),
        (500, b"Access Token expired", "statuses: [500]"),
        (503, b'{"fault": {"faultstring": "Expired access token"}}', "statuses: [503]"),
        (200, '{"code": "A0230", "msg": "用户登录已过期", "data": null}'.encode(), "codes: [A0230]"),
        (200, b'{"status": "error", "message": "Token expired"}', None),
        (400, b'{"error": {"message": "max_tokens is too large", "code": "invalid_value"}}', None),
        (500, b'{"error": {"message": "The deadline has expired"}}', None),
    ],
)
def test_an_expired_token_that_is_no_401_names_what_to_add_to_rejection(status, body, setting):
    reply = ReceivedReply("chat", status, (), body)
    error = classify_error(reply) if status >= 400 else classify_document(reply, CHAT)
    assert isinstance(error, UpstreamErrorReply)
    assert error.setting == (f"upstreams.chat.rejection.{setting}" if setting else "")
    assert not setting or error.setting in error.advice
    known = RejectionConfig(statuses=[status] if status >= 400 else [], codes=[error.upstream_code or "none"])
    told = ReceivedReply("chat", status, (), body, rejection=known)
    again = classify_error(told) if status >= 400 else classify_document(told, CHAT)
    assert isinstance(again, UpstreamErrorReply)
    assert "rejection" not in again.message, "what is set is no news"
    key = ReceivedReply("chat", status, (), body, key="this key", rejected=Remedy("Replace the key."))
    of_key = classify_error(key) if status >= 400 else classify_document(key, CHAT)
    assert isinstance(of_key, UpstreamErrorReply)
    assert "rejection" not in of_key.message, "a key cannot be renewed"


def test_a_number_that_begins_with_a_status_is_a_401_and_renews_the_token():
    error = classify_document(ReceivedReply("chat", 200, (), b'{"code": 40101, "msg": "who?"}'), CHAT)
    assert isinstance(error, UpstreamErrorReply)
    assert (error.http_status, error.upstream_code) == (401, "40101")


def may_lack(message, *models, status=400, param=None, case=""):
    body = UpstreamErrorBody(message, param=param)
    return may_lack_model(UpstreamErrorReply(message, upstream="u", status=status, error_body=body, case=case), models)


@pytest.mark.parametrize(
    ("message", "models"),
    [
        ("You passed in model=nope. There are no healthy deployments for this model", ("nope",)),
        ("Server is pinned to 'X'; requested 'nope'.", ("nope",)),
        ("Server is pinned to 'X'; requested 'sent-1'.", ("nope", "sent-1")),
        ("no engine serves nope.", ("nope",)),
        ("org/nope-7b: not deployed", ("org/nope-7b",)),
        ("模型nope未部署", ("nope",)),
        ("没有部署“nope”", ("nope",)),
        ("`m` is not loaded", ("m",)),
        ("The model NOPE is unavailable here", ("nope",)),
    ],
)
def test_a_refusal_that_names_the_model_may_mean_that_it_is_unknown(message, models):
    assert may_lack(message, *models)
    assert may_lack(message, *models, status=422, param="model")
    assert not may_lack(message, *models, status=500)
    assert not may_lack(message, *models, param="messages.0")
    assert not may_lack(message, *models, case="too_long")


@pytest.mark.parametrize(
    "message",
    [
        "a model that has no name",
        "the model nopes",
        "model nope.2",
        "model x-nope",
        "nope",
        "model nope: maximum context length is 10",
        "model nope: 上下文太长",
        "model nope needs an api key",
        "the token may not use model nope",
        "model nope: 当前令牌无权限",
        "this subscription has no model nope",
        "model nope cannot process images",
        "model nope only supports text",
    ],
)
def test_a_refusal_of_something_else_does_not(message):
    assert not may_lack(message, "nope")


@pytest.mark.parametrize("size", [2_000, 65_536])
@pytest.mark.parametrize("piece", ["model ", "a.", "nope-", "模型", "'nope' ", "api key ", "does not "])
def test_no_text_and_no_name_of_any_length_holds_the_search(piece, size):
    text = piece * (size // len(piece))
    may_lack(text, "nope", "a" * 65_536, ".*" * 100)
