"""The request of each host when its user presses "Verify", "Save", "Test" or "Check", and how long it waits.

One row is one request, byte for byte in shape: members in the order in which the host writes them. RAGFlow's rows are
those of `ragflow_requests.py` that belong to "add model". `verification_readers.py`
reads the replies and names the sources of both. Each row names the source of its deadline.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from tests.integration import verification_readers as reads
from tests.integration.gateway import Answer
from tests.integration.ragflow_requests import (
    ALL,
    BOUNDARY,
    CHAT_MODEL,
    EAR_MODEL,
    RANK_MODEL,
    SDK,
    VECTOR_MODEL,
    VERIFY_S,
    VOICE_MODEL,
    Replay,
    by_requests,
    by_sdk,
    form,
    silence,
)
from tests.integration.strict_azure import SPOKEN, TEXT, TRANSCRIPT, score, vector

CHECK_MODEL = "gpt-5-mini"
"""LobeChat's check asks this one in a version, listed or not (router-for-me/CLIProxyAPI#38)."""
LISTED = "LISTED"
"""A placeholder for the names that gatepass lists."""

DIFY_S = (10.0, 300.0)
"""`timeout=(10, 300)` of requests: to connect, and between two pieces of the reply."""
DIFY_0_6_S, DIFY_CALL_S, DIFY_UNBOUND_S = 60.0, 60.0, 600.0
"""`timeout=(10, 60)` in 0.6, `timeout=60` of reranks and of newer embeddings; speech has none (ours is the SDK's)."""
SDK_S = 600.0
"""The default of openai-node and openai-python, which these hosts do not change."""
N8N_AXIOS_S, N8N_NODE_S = 300.0, 60.0
"""`axios.defaults.timeout` (packages/core …/axios-config.ts); the node's option *Timeout* (LmChatOpenAi.node.ts)."""
LIBRECHAT_S = 5.0
"""`timeout: 5000` of fetchModels (packages/api/src/endpoints/models.ts)."""
OPEN_WEBUI_S = 10.0
"""AIOHTTP_CLIENT_TIMEOUT_MODEL_LIST (backend/open_webui/env.py)."""
CHERRY_S = 15.0
"""`checkModel(provider, model, timeout = 15000)` (src/renderer/src/services/ApiService.ts)."""


@dataclass(frozen=True, slots=True)
class Check:
    """One press of the button. `profile`: the profile that docs/clients/ recommends; a `key` of None sends none.

    `gives`: the host's result for a good reply.
    """

    host: str
    version: str
    screen: str
    path: str
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    reads: Callable[[Answer], Any]
    gives: Any
    deadline_s: float
    profile: str = "plain"

    @property
    def name(self) -> str:
        return f"{self.host} {self.version}: {self.screen}"

    @property
    def method(self) -> str:
        return "POST" if self.body else "GET"

    @property
    def is_chat(self) -> bool:
        return self.path.endswith("/chat/completions")

    def asking(self, model: str) -> Check:
        """The same of another chat model; the check model of LobeChat keeps its name."""
        return replace(self, body=self.body.replace(f'"{CHAT_MODEL}"'.encode(), f'"{model}"'.encode()))


# --- how each host writes ---------------------------------------------------------------------------------

CHAT, MODELS = "/v1/chat/completions", "/v1/models"


def _headers(**fields: str) -> Mapping[str, str]:
    """A `_` in a name becomes `-`."""
    return MappingProxyType({name.replace("_", "-"): value for name, value in fields.items()})


REQUESTS = _headers(
    user_agent="python-requests/2.32.5",
    accept_encoding="gzip, deflate",
    accept="*/*",
    connection="keep-alive",
    content_type="application/json",
)
NODE = _headers(
    accept="application/json",
    content_type="application/json",
    user_agent="OpenAI/JS 4.104.0",
    x_stainless_lang="js",
    x_stainless_package_version="4.104.0",
    x_stainless_os="Linux",
    x_stainless_arch="x64",
    x_stainless_runtime="node",
    x_stainless_runtime_version="v22.14.0",
    x_stainless_retry_count="0",
    x_stainless_timeout="600",
)
NODE_GET = MappingProxyType({name: value for name, value in NODE.items() if name != "content-type"})
LOBECHAT = MappingProxyType({**NODE, "accept": "*/*"})
"""lobehub/lobe-chat#318."""
PYTHON = MappingProxyType(
    {**{name: value for name, value in SDK.items() if name != "authorization"}, "x-stainless-async": "false"}
)
AXIOS = _headers(
    accept="application/json, text/plain, */*",
    user_agent="axios/1.12.1",
    accept_encoding="gzip, compress, deflate, br",
)
N8N = MappingProxyType({**AXIOS, "openai-organization": ""})
"""The credential's field for an organisation is sent though it is empty (OpenAiApi.credentials.ts)."""
AIOHTTP = _headers(accept="*/*", accept_encoding="gzip, deflate, br", user_agent="Python/3.11 aiohttp/3.12.15")
OPEN_WEBUI = MappingProxyType({**AIOHTTP, "content-type": "application/json", "x-openwebui-user-name": "A%20B"})
CHERRY = MappingProxyType(
    {
        **NODE,
        "http-referer": "https://cherry-ai.com",
        "x-title": "Cherry Studio",
        "sec-fetch-dest": "empty",
        "sec-fetch-mode": "cors",
        "sec-fetch-site": "cross-site",
        "user-agent": "Mozilla/5.0 (Macintosh) AppleWebKit/537.36 CherryStudio/1.5.7 Chrome/138.0 Electron/37.2.3",
    }
)

PING = {"role": "user", "content": "ping"}
HELLO = {"role": "user", "content": "hello"}
HI = {"role": "user", "content": "hi"}


# --- Dify -------------------------------------------------------------------------------------------------


def _dify(
    version: str, screen: str, path: str, document: Any, read: Callable[[Answer], Any], gives: Any, **more: Any
) -> Check:
    fields = {"headers": REQUESTS, "deadline_s": DIFY_S[1], "profile": "dify", **more}
    return Check("Dify", version, screen, path, body=by_requests(document), reads=read, gives=gives, **fields)


CAPITALS = (
    "Carson City is the capital city of the American state of Nevada.",
    "The Commonwealth of the Northern Mariana Islands is a group of islands in the Pacific Ocean.",
    "Washington, D.C., formally the District of Columbia, is the capital city of the United States.",
)
QUESTION = {"model": RANK_MODEL, "query": "What is the capital of the United States?"}
SCORES = {index: score(text) for index, text in enumerate(CAPITALS)}
TWO_SCORES = {index: SCORES[index] for index in range(2)}
PINGED = {"model": CHAT_MODEL, "messages": [PING]}
THINKING = {"thinking": {"type": "disabled"}, "chat_template_kwargs": {"enable_thinking": False, "thinking": False}}
RANKED = {**QUESTION, "return_documents": True}
SPOKEN_TEST = {"model": VOICE_MODEL, "input": "Test.", "voice": "alloy", "instruction": None, "response_format": "mp3"}
FILE = {**REQUESTS, "content-type": f"multipart/form-data; boundary={BOUNDARY}"}

DIFY = (
    _dify(
        *("0.6", "save a chat model", CHAT, {**PINGED, "max_tokens": 5}),
        *(reads.dify_0_6_chat, "chat.completion"),
        deadline_s=DIFY_0_6_S,
    ),
    _dify(
        *("1.x, SDK @8e8860b", "save a chat model", CHAT, {**PINGED, "max_completion_tokens": 5}),
        *(reads.dify_chat, "chat.completion"),
    ),
    _dify(
        *("1.x, stream mode for validation", "save a chat model", CHAT, {**PINGED, "max_tokens": 10, "stream": True}),
        *(reads.dify_stream_begins, 200),
    ),
    Check(
        *("Dify", "1.x, names such as o1 and gpt-5", "save a chat model", CHAT, PYTHON),
        by_sdk({**PINGED, "max_completion_tokens": 16, "stream": False}),
        *(reads.sdk_chat, TEXT, SDK_S, "dify"),
    ),
    _dify(
        *(
            "1.x",
            "save a completion model",
            "/v1/completions",
            {"model": CHAT_MODEL, "max_tokens": 5, "prompt": "ping"},
        ),
        *(reads.dify_completion, "text_completion"),
    ),
    _dify(
        *("1.x", "debug and preview, first message", CHAT),
        {"model": CHAT_MODEL, "stream": True, "temperature": 0.7, **THINKING, "messages": [HI], "user": "2b1c"},
        *(reads.dify_stream, TEXT),
    ),
    _dify(
        *("1.x", "a workflow's first answer", CHAT),
        {"model": CHAT_MODEL, "stream": False, "temperature": 0.7, "messages": [HI], "user": "2b1c"},
        *(reads.dify_message, TEXT),
    ),
    _dify(
        *("0.6 to 1.x", "save an embedding model", "/v1/embeddings", {"input": "ping", "model": VECTOR_MODEL}),
        *(reads.dify_embedding, None),
    ),
    _dify(
        *("1.x, newer plugin", "save an embedding model", "/v1/embeddings"),
        {"model": VECTOR_MODEL, "input": ["ping"], "encoding_format": "float"},
        *(reads.dify_vectors, [vector("ping", 3)]),
        deadline_s=DIFY_CALL_S,
    ),
    _dify(
        *("1.x, SDK", "save a reranker", "/v1/rerank", {**RANKED, "documents": CAPITALS[:2], "top_n": None}),
        *(reads.dify_sdk_ranks, TWO_SCORES),
        deadline_s=DIFY_CALL_S,
    ),
    _dify(
        *("1.x, plugin", "save a reranker", "/v1/rerank"),
        {**RANKED, "documents": CAPITALS, "top_n": 3, "score_threshold": 0.8},
        *(reads.dify_ranks, SCORES),
        deadline_s=DIFY_CALL_S,
    ),
    _dify(
        *("1.x", "save a voice", "/v1/audio/speech", SPOKEN_TEST, reads.dify_speech, SPOKEN),
        deadline_s=DIFY_UNBOUND_S,
    ),
    Check(
        *("Dify", "1.x", "save a transcriber", "/v1/audio/transcriptions", FILE, form(EAR_MODEL, silence())),
        *(reads.text, TRANSCRIPT, DIFY_UNBOUND_S, "dify"),
    ),
    Check("Dify", "1.x", "add from the list", MODELS, PYTHON, b"", reads.ids, LISTED, SDK_S, "dify"),
)

# --- the others -------------------------------------------------------------------------------------------

SETTINGS = {"frequency_penalty": 0, "presence_penalty": 0, "temperature": 1, "top_p": 1}
"""Those of LobeChat's default agent, which the check sends too (packages/const/src/settings/agent.ts)."""
COUNTED = {"stream_options": {"include_usage": True}}


def _lobechat(version: str, document: Any, read: Callable[[Answer], Any]) -> Check:
    body = by_sdk({**document, **SETTINGS, "messages": [HELLO], "user": "u1"})
    return Check("LobeChat", version, "connectivity check", CHAT, LOBECHAT, body, read, TEXT, SDK_S)


LOBECHAT_ROWS = (
    _lobechat("@506a875", {"model": CHAT_MODEL, "stream": True, **COUNTED}, reads.lobechat_stream),
    _lobechat("its fixed check model", {"model": CHECK_MODEL, "stream": True, **COUNTED}, reads.lobechat_stream),
    _lobechat("streaming switched off", {"model": CHAT_MODEL, "stream": False}, reads.lobechat_whole),
    Check("LobeChat", "@506a875", "fetch models", MODELS, NODE_GET, b"", reads.lobechat_ids, LISTED, SDK_S),
)


def _n8n(screen: str, document: Any, read: Callable[[Answer], Any], gives: Any, path: str = CHAT) -> Check:
    deadline_s = N8N_NODE_S if path == CHAT else SDK_S
    return Check("n8n", "1.x", screen, path, NODE, by_sdk(document), read, gives, deadline_s)


ALL_OPTIONS = {"temperature": 0.7, "top_p": 1, "frequency_penalty": 0, "presence_penalty": 0, "max_tokens": 512}
N8N_ROWS = (
    Check("n8n", "1.x", "test the credential", MODELS, N8N, b"", reads.reachable, 200, N8N_AXIOS_S),
    Check("n8n", "node 1.2 (@0028232)", "model list", MODELS, NODE_GET, b"", reads.n8n_ids, LISTED, SDK_S),
    _n8n(
        "run a chain, all options",
        {"model": CHAT_MODEL, **ALL_OPTIONS, "stream": False, "response_format": {"type": "text"}, "messages": [HI]},
        *(reads.sdk_chat, TEXT),
    ),
    _n8n(
        "run an agent that streams",
        {"model": CHAT_MODEL, "temperature": 0.7, "stream": True, **COUNTED, "messages": [HI]},
        *(reads.sdk_stream, TEXT),
    ),
    _n8n(
        "run an embedding",
        {"model": VECTOR_MODEL, "input": ["hi"], "encoding_format": "base64"},
        *(reads.node_packed_vectors, [vector("hi", 3)], "/v1/embeddings"),
    ),
)

OTHER_ROWS = (
    Check(
        *("LibreChat", "@003bf57, userIdQuery", "models, fetch: true", f"{MODELS}?user=66f0c0ffee", AXIOS, b""),
        *(reads.ids, LISTED, LIBRECHAT_S, "librechat"),
    ),
    Check(
        *("Open WebUI", "@004a45f", "verify connection", MODELS, OPEN_WEBUI, b""),
        *(reads.open_webui_ids, LISTED, OPEN_WEBUI_S),
    ),
)


def _cherry(version: str, path: str, document: Any, read: Callable[[Answer], Any], gives: Any) -> Check:
    body = by_sdk(document) if document is not None else b""
    return Check("Cherry Studio", version, "check", path, CHERRY, body, read, gives, CHERRY_S, "cherry_studio")


CHERRY_ROWS = (
    _cherry(
        *("@c7bb0e8 (AI SDK)", CHAT),
        {"model": CHAT_MODEL, "messages": [{"role": "system", "content": "test"}, HI], "stream": True, **COUNTED},
        *(reads.ai_sdk_stream, TEXT),
    ),
    _cherry(
        "before the AI SDK, embedding", "/v1/embeddings", {"model": VECTOR_MODEL, "input": "hi"}, reads.dimensions, 3
    ),
    _cherry(
        *("AI SDK, embedding", "/v1/embeddings"),
        {"model": VECTOR_MODEL, "input": ["test"], "encoding_format": "float"},
        *(reads.dimensions, 3),
    ),
    _cherry("model list", MODELS, None, reads.ids, LISTED),
)

CHECKS: tuple[Check, ...] = (*DIFY, *LOBECHAT_ROWS, *N8N_ROWS, *OTHER_ROWS, *CHERRY_ROWS)
RAGFLOW: tuple[Replay, ...] = tuple(replay for replay in ALL if replay.within_s == VERIFY_S)
"""Each has 10 s (LLM_TIMEOUT_SECONDS), the list of models included."""
