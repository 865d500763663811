"""Find the advice for an upstream's error whose message is known and unclear. errors.json has its text."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

import msgspec

from gatepass.config.advice import Advice
from gatepass.config.upstream import RagflowPaths
from gatepass.errors import UpstreamErrorReply
from gatepass.observability.story import names_of
from gatepass.replies.error_body import MESSAGE_CHARS
from gatepass.types import FINAL_CODES, MCP_UPSTREAM, TOO_LONG, TOO_LONG_TEXT, UpstreamErrorBody, span


class Hint(msgspec.Struct, frozen=True):
    """The `case` of errors whose message matches `pattern` in any case, and of one of `statuses` (none: any).

    `operation`: only for this one, whose `param` may match too.
    """

    pattern: str
    case: str
    statuses: tuple[int, ...] = ()
    operation: str = ""


class Remedy(NamedTuple):
    """What to do about an error, its `case` and `setting`, and words to add to its cause."""

    advice: str = ""
    case: str = ""
    setting: str = ""
    cause: str = ""


_NO_ASSISTANT = r"^no authorization\.?$"
_NOT_FOUND = r"^resource not found\.?$"
REJECTION = "rejected_without_401"
"""Of a token. That of a key is `ReceivedReply.rejected`."""
OF_TOKENS = (403, 419, 440, 498)
"""Statuses besides 401 that may mean the token whatever the text is: 419 of Laravel, 440 of IIS, 498 of Esri."""
HINTS = (
    Hint(rf"^(?!.*\b(?:context|reduce|shorten)\b).*(?:{TOO_LONG_TEXT})", "too_long"),
    Hint(
        # OpenAI and Azure, the second for an organization that is not verified
        r"'?stream'? does not support true|must be verified to stream",
        "no_streaming",
    ),
    Hint(
        r"(?m:^)(?=.*\btools?\b)(?=.*\b(?:namespace|custom)\b(?!\.)).*"
        r"(?:unknown|unsupported|not supported|invalid|unrecognized|expected|should be|不支持)"
        r"|'type' of tool must be|\boutput of tool call should be|^tools\b.{0,9}\btype$",
        "type_of_tool",
        (400, 422),
        "responses",
    ),
    Hint(r"\broles? must alternate|system message must be (?:at the beginning|the first)", "order_of_roles"),
    Hint(
        # vLLM, SGLang, OpenRouter, OpenAI, DeepSeek
        r"\bat most 0 (?:image|audio|video)|is not a multimodal model|support image input"
        r"|image_url is only supported|unknown variant `image_url`",
        "no_images",
    ),
    Hint(
        # OpenAI's reasoning models; no number is named
        r"(?m:^)(?!.*(?:\d\d|too large))(?=.*(?:\bmax(?:imum)?[ _]?(?:[a-z]{1,20}[ _])?tokens|最大.{0,8}token))"
        r".*(?:limit was reached|too (?:small|low)|(?:higher|larger|bigger) (?:max|limit|value)|(?:过|太)[小低])",
        "few_tokens",
        (400, 422),
    ),
    Hint(r"\b(?:entity|payload|content|body) (?:is )?too large", "body_too_large_upstream", (413,)),
    Hint(
        # nginx, Tomcat; Apache; Gunicorn; Node and Go; aiohttp
        r"^[^\[]*\bheaders?\b.{0,40}\btoo (?:large|long|big)\b"
        r"|\bsize of (?:a|the) request headers?\b.{0,40}\b(?:exceed|too)"
        r"|\blimit request headers\b|\bheaders? (?:size|length)\b.{0,40}\b(?:limit|exceed|maximum)"
        r"|\bwhen reading header|请求头.{0,10}(?:过大|过长|太大|太长)",
        "header_too_large",
        (400, 413, 431, 494),
    ),
    Hint("", "header_too_large", (431, 494)),
    Hint(r"conversation is not from user|must end with a user message|assistant message prefill", "last_message"),
    Hint(r"missing subscription key", "subscription_key"),
    Hint(
        # Portkey, Spring
        r"^(?=.*(?:\w-\w|请求头|request header))(?!.*(?:\b(?:authorization|bearer|token|content)\b|\[\d))"
        r".*(?:缺少.{0,20}请求头|请求头.{0,40}(?:不能为空|缺失|必填)"
        r"|\bheaders?\b.{0,100} (?:required|missing|must be|not (?:present|set|found|provided))"
        r"|\b(?:missing|requires?|required)\b.{0,40}\bheaders?\b)",
        "missing_header",
        (400, 403, 412, 422, 428),
    ),
    Hint(r"API deployment for this resource does not exist|DeploymentNotFound", "azure_deployment", (404,)),
    Hint(_NOT_FOUND, "azure_path", (404,)),
    Hint(r"api version not supported", "azure_version"),
    Hint(r"invalid subscription key or wrong API endpoint", "azure_endpoint"),
    Hint(r"access token is missing, invalid, audience is incorrect", "azure_token"),
    Hint(r"^you don't own the (chat|agent)|permission to access the agent", "ragflow_assistant", (403, 404)),
    Hint(_NO_ASSISTANT, "no_authorization", (404,)),
    Hint(r"^`llm_id` .+ doesn't exist", "ragflow_model"),
    Hint(
        r"\b(?:token|jwt|bearer|credentials?|session|api[ _-]?key)\b.{0,60}\b(?:refused|invalid|expired?|missing"
        r"|rejected|revoked|wrong|denied|not (?:valid|found|recogni[sz]ed|accepted))\b"
        r"|\b(?:invalid|expired|bad|wrong|missing|unknown|revoked|no)\W+(?:\w+\W+){0,2}"
        r"(?:token|jwt|bearer|credentials?|api[ _-]?key)\b"
        r"|(?:token|令牌|凭证|登录).{0,10}(?:无效|过期|失效|错误|不存在|不合法)"
        # Istio and others, whole texts
        r"|^\W*(?:\w{1,9}: ?)?(?:access (?:is |was )?(?:denied|forbidden)|forbidden|unauthori[sz]ed|拒绝访问)\W*$",
        REJECTION,
        (403,),
    ),
    Hint(
        # WSO2, in JSON and XML
        r"(?:^|>)\W{0,3}(?:9009(?:0\d|1[0-4])\b"
        r"|(?:\w{1,20} )?(?:invalid credentials?|authentication (?:has )?fail(?:ed|ure))(?=[.!:,<]| for |\W*$))",
        REJECTION,
        (400, 404, 500, 502, 503),
    ),
    Hint(
        # the lookahead spares the search in most errors
        r"^(?=A0230$|[\s\S]*(?:expire|过期))(?:[\s\S]*(?:\b(?:token|jwt|session)\b.{0,60}\bexpired?\b"
        r"|\bexpired\W+(?:\w+\W+){0,2}(?:token|jwt|session)\b"
        r"|token_?expired|expired_?token|(?:token|令牌|登录|会话).{0,10}过期)|A0230$)",
        REJECTION,
        (400, 404, 419, 422, 498, 500, 502, 503),
    ),
    Hint("", REJECTION, OF_TOKENS[1:]),
    Hint(r"/v\d+/v\d+/|(/chat/completions|/embeddings|/models).{0,200}\1", "doubled_path", (404,)),
)
AZURE_HINTS = (
    Hint(_NOT_FOUND, "azure_resource", (404,)),
    *HINTS,
)
"""The hints for an upstream with `dialect: azure`: they do not advise that setting again."""
_OF_RAGFLOW = (
    Hint(_NO_ASSISTANT, "ragflow_assistant", (404,)),
    *(hint for hint in HINTS if hint.case != "ragflow_model"),
)
RAGFLOW_HINTS: Mapping[RagflowPaths, tuple[Hint, ...]] = {
    "current": (
        Hint(r"^not found: \S*/api/v1/(openai|agents)/", "ragflow_old_paths", (404,)),
        *_OF_RAGFLOW,
    ),
    "old": (
        Hint(r"^(?:not found: \S*/api/v1/\w+_openai/.*|(?:404 )?(?:page )?not found\.?)$", "ragflow_new_paths", (404,)),
        *_OF_RAGFLOW,
    ),
}

NO_PARAMS = frozenset(("", "none", "null", "validation_error", "body", "request"))
"""Values of `param` that name no member (LiteLLM, Cerebras)."""
ABSENT = (404, 405, 501)
"""The statuses of a path that a server lacks."""
NO_SUCH_PAGE = r"(?i)40[45]|not (?:found|allowed)"
"""In the title of a page in place of an answer."""
_RELAYED = r"[\w.]{1,40}(?:Error|Exception)(?:: | - )|(?:\w{1,30} )?error: "
_THING = r"(?:url|uri|path|route|page|endpoint|resource|file|method|operation|handler|api|接口|端点|路径|路由)"
_NO = (
    r"(?:no|unknown|invalid|unsupported|unrecogni[sz]ed)"
    rf"(?: (?:such|matching|matched|static|request|requested|http|api|registered|valid)){{0,3}} {_THING}s?"
    r"(?: (?:was|is|found|matched|matches|exists|for|with|full|those values|this request)){0,4}:?"
)
_NOT = r"(?: (?:is|was|were|could|can|does))?(?: ?not|n't)(?: (?:be|yet|currently)){0,2}"
OWN_PATH = r"[\"'`(]?(?:(?:get|post)\b:? ?)?(?:https?://[^\s/]{1,100})?(?:/|/?[\w.-]{1,40}/(?:[\w.-]{1,40}/){0,5})LAST/?[\"'`)]?"
"""The path of an operation, whose last part takes the place of `LAST`."""
_NAMED = (
    rf"(?:(?:{_THING}[ :：]{{0,2}})?{OWN_PATH}(?: ?{_THING})?"
    rf"|[\"'`]?LAST[\"'`]?(?: ?{_THING}|(?= (?:is|was) | ?[不未暂尚]|[\W]{{0,3}}\Z)))"
)
_OF_PATH = (
    rf"(?:requested )?(?:http )?(?:{_THING} ?)?{_NOT} ?(?:found|allowed|implemented|supported|available|exist)"
    rf"|{_NO}(?: {OWN_PATH})?(?: for request \S{{1,99}})?|(?:cannot|can't) (?:get|post|find) {OWN_PATH}"
    rf"|(?:{_THING} )?{OWN_PATH}(?: {_THING})?(?:{_NOT} \w{{2,20}})?"
    r"|(?:该|此|请求的|当前)?(?:接口|路径|地址|资源|页面|路由|方法)(?:地址|路径)?(?:不存在|未找到|不支持|未实现)"
)
"""What web frameworks and routers write with a status of `ABSENT`."""
_OF_NAME = (
    rf"{_NO} {OWN_PATH}|not (?:supported|implemented):? {OWN_PATH}|{_NAMED}{_NOT} (?:supported|implemented)"
    rf"|{_NAMED}(?: (?:is|was))? (?:unsupported|unimplemented|unknown)"
    rf"|(?:[\w'\"`.-]{{1,40}} ){{0,4}}(?:does not|doesn't|cannot|can't) (?:support|implement) (?:the )?{_NAMED}"
    rf"|(?:[\w-]{{1,40}} ){{0,2}}\w{{0,9}}(?:暂|尚|目前)?不支持(?:该|此|的)?(?:{_THING}[:：])? ?{_NAMED}"
    rf"|{_NAMED} ?(?:暂|尚|目前)?(?:不支持|未实现)"
)
"""With a 400 or a 500 too, which must have the operation's path or name."""


def says_no_path(error_body: UpstreamErrorBody, status: int, path: str = "") -> bool:
    """Whether an upstream's error means, by its first sentence, that it lacks the `path` of an operation; "" is any.

    The sentence is read whole, because one that quotes a client has more. A 502 to 504 is of a proxy.
    """
    if (error_body.param or "").strip().lower() not in NO_PARAMS or (error_body.code or "").lower() in FINAL_CODES:
        return False
    is_named = status in (400, 500) and path != ""
    texts = rf"{_OF_PATH}|{_OF_NAME}" if status in ABSENT else _OF_NAME if is_named else r"(?!)"
    last = re.escape(path.partition("{")[0].strip("/")) or r"[\w.-]{1,40}"
    begins = rf"(?i)(?:{_RELAYED}){{0,3}}(?:http )?(?:40[045]|50[01])?[ :-]{{0,3}}(?:(?:the|this) )?"
    ends = r"(?: (?:(?:on|by|at|in|for) (?:this|the|that|provider|channel)|by|on)(?: [\w.-]{1,40}){0,4})?"
    ends += r"(?:[.,;!。，](?:\s[\s\S]*)?|\n\n[\s\S]*)?"
    return (
        re.fullmatch(f"{begins}(?:{texts}){ends}".replace("LAST", last), error_body.message[:MESSAGE_CHARS]) is not None
    )


_UNABLE = (
    r"(?i)\b(?:(?:does|do) ?n[o']t|can(?:no|')t|unable to) (?:support|accept|process|handle|read)"
    r"(?! (?:(?:the|this) )?(?:requested )?(?:model|deployment))"
    r"|not supported (?:by|with|for|in|on) (?:the|this)\b.{0,200}\b(?:model|deployment)"
    r"|\bonly supports?\b|\bsupports? (?:only|at most|up to)\b|模型.{0,200}不支持|不支持(?!.{0,4}模型)"
)
"""Of a model that is known, and lacks an ability."""


def case_of(error_body: UpstreamErrorBody, status: int, upstream: str, model: str) -> str:
    """Return the case of an upstream's own error in errors.json by its words and `status`, "" for none.

    `model` is the client's name of it.
    """
    text = "" if error_body.own else error_body.message[:MESSAGE_CHARS]
    is_mcp = upstream.startswith(MCP_UPSTREAM)
    if not is_mcp and ((error_body.code or "").lower() in TOO_LONG or re.search(TOO_LONG_TEXT, text, re.IGNORECASE)):
        return "too_long"
    if status == 429:
        return "429"
    if status >= 500 and "model" not in text.lower():
        return "5xx"
    names = rf"(?i)model|deployment|模型|部署|{re.escape(model)}"
    if not model or not re.search(names, text) or re.search(_UNABLE, text):
        return ""
    return "model_denied" if status == 403 else "about_model"


_NO_MODEL = (
    r"(?i)"
    r"\b(?<!\bthis )model:? ?(?:['\"`]?[^\s'\"`]{1,200}['\"`]? )?(?:(?:does|is|was|do) ?n[o']t|not) (?:exist|found)\b"
    r"|\b(?:invalid|unknown|no such) model(?: name| id)?(?:\s*[:'\"`=(.]|\s+passed\b|\s*\Z)"
    r"|\bnot a valid model\b|模型不存在|\Amodel: \S+\Z"
)
"""Messages of OpenAI and vLLM, Ollama, DeepSeek, Xinference; LiteLLM and Mistral; OpenRouter; Zhipu; Anthropic."""
_NO_MODEL_CODES = frozenset(("model_not_found", "invalid_model", "unknown_model"))


def is_about_model(code: str | None, message: str, models: Collection[str] = ()) -> bool:
    """Whether an upstream's error with `code` and `message` means that it does not know the model.

    A message with one of `models`, its names, is about it too. A name of letters alone counts in quotes.
    """
    text = message[:MESSAGE_CHARS]
    names = [rf"['\"`“]{name}['\"`”]" if name.isalpha() else re.escape(name) for name in models if name]
    is_named = names and re.search(rf"(?i)(?<![\w.-])(?:{'|'.join(names)})(?![\w-]|\.\w)", text)
    return bool(is_named or (code or "").lower() in _NO_MODEL_CODES or re.search(_NO_MODEL, text))


MODEL_CHARS = 256
_NOUN = r"(?i)model|deployment|engine|模型|部署"
_OF_OTHERS = (
    rf"(?i){TOO_LONG_TEXT}|\bcontext\b|上下文|\b(?:api[ _-]?keys?|tokens?|jwt|bearer|auth\w{{1,20}}|permissions?|access"
    r"|credentials?|subscription|allowed)\b|令牌|凭[证据]|密钥|权限"
)
"""Of a context, a credential or its rights."""


def may_lack_model(error: UpstreamErrorReply, models: Collection[str]) -> bool:
    """Whether a refusal names one of `models`, the names of the request's model, and may mean that it is unknown.

    Not one that is about a context, a credential or an ability.
    """
    body = error.error_body
    if error.http_status not in (400, 404, 422) or body is None or body.own or error.case not in ("", "about_model"):
        return False
    text, param = body.message[:MESSAGE_CHARS], (body.param or "").rpartition(".")[2].lower()
    models = [name for name in models if len(name) <= MODEL_CHARS]  # a longer one takes too long to search for
    words = "|".join(re.escape(name) for name in models if len(name) > 2)
    has_word = words and re.search(rf"(?ai)(?<![\w.-])(?:{words})(?![\w-]|\.\w)", text) is not None
    is_named = (has_word and re.search(_NOUN, f"{param} {text}")) or is_about_model(None, text, models)
    is_of_others = param not in ("", "model", "none", "null") or re.search(_OF_OTHERS, text) or re.search(_UNABLE, text)
    return bool(is_named) and not is_of_others


def model_hint(
    model: str, error: UpstreamErrorReply, sent: str | None = None, route: str = "", operation: str = "chat"
) -> Remedy | None:
    """Return what to do if the upstream does not know the client's `model`, which may have been `sent` as another."""
    body = error.error_body
    if error.http_status not in (400, 404, 422) or body is None or not is_about_model(body.code, body.message):
        return None
    return unknown_model(model, error.hop, sent, route, operation)


def unknown_model(model: str, hop: str, sent: str | None, route: str, operation: str) -> Remedy:
    """Return what to do about a model that the upstream does not know. Arguments as for `model_hint`."""
    known = model[:100]
    case, setting = "unknown_model", f"models.{known}.name"
    cause = f"gatepass sent the client's model name {known!r} unchanged."
    if sent not in (None, model):
        case, cause = "renamed_model", f"gatepass sent {str(sent)[:100]!r} for the client's model name {known!r}."
        setting = (route or "models.*.upstream").removesuffix(".upstream").replace(".targets", ".targets[]") + ".name"
    names = {**names_of(hop, operation, known), "setting": setting}
    return Remedy(str(Advice(case, names)), case, setting, cause)


def tried_with(credential: str | None, age_s: float | None, not_renewed: str | None) -> str:
    """Describe the attempts at an upstream that rejects the token; "" without a credential.

    `age_s` is the age of the token that was rejected last; None for a key that does not expire. `not_renewed` is the
    reason why no new token was tried; None if a new one was rejected too.
    """
    if credential is None:
        return ""
    # two digits at most, because RAGFlow retries an error whose text contains a number such as 429
    requested = "" if age_s is None else f", requested {span(min(age_s, 99 * 86_400))} ago"
    if not_renewed is None:
        return f"Tried with the token of the credential {credential!r}, and again with a new one{requested}."
    if age_s is None:
        return f"Tried once, with the only key of the credential {credential!r}."
    return f"Tried once, with the token of the credential {credential!r}{requested}: {not_renewed}."
