"""Write the codes of docs/reference/errors.md and docs/zh/errors.md.

The words are those of src/gatepass/errors.json.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

from docs.entries import Entry, joined, unwrapped
from docs.error_messages import MESSAGES
from docs.setting_reference import introduced, setting_links

from gatepass.config.advice import explained
from gatepass.errors import (
    GatepassError,
    GatewayError,
    InvalidToken,
    McpNotAllowed,
    TokenUnavailable,
    UpstreamAuth,
    UpstreamError,
    UpstreamErrorReply,
    UpstreamHtml,
    UpstreamTimeout,
    UpstreamTls,
    explanations,
    kind_of,
)

GROUPS: Mapping[type[GatepassError], tuple[str, str, str]] = {
    GatewayError: ("Errors of this process", "gatepass 自身的错误", "gatepass"),
    TokenUnavailable: ("Errors of a token source", "令牌来源的错误", "credential:NAME"),
    UpstreamError: ("Errors of an upstream", "上游的错误", "upstream:NAME"),
}
"""The heading of a group in both languages, and the hop of its errors."""
ARGUMENTS_OF_ERROR: Mapping[str, Any] = {
    "upstream": "chat",
    "credential": "corp",
    "allow": "POST",
    "status": 400,
    "phase": "connect",
}
RETRIES: Mapping[type[GatepassError], str] = {
    InvalidToken: "yes with a new token, if it expired, is not valid yet or no known key signed it",
    UpstreamErrorReply: "as for the upstream's status",
    UpstreamHtml: "no at a login page, otherwise as for the upstream's status",
    UpstreamTls: "yes, but not if the certificate is at fault",
}
"""Errors for which a retry can succeed only sometimes."""
CHINESE: Mapping[str, str] = {
    "the upstream's": "上游的状态码",
    "403; 200 with an error in JSON-RPC at `/mcp`": "403；在 `/mcp` 是 200 和 JSON-RPC 错误",
    "yes": "能成功",
    "yes with a new token, if it expired, is not valid yet or no known key signed it": (
        "：如果令牌已过期、尚未生效，或没有已知密钥与签名相符，换用新令牌后能成功"
    ),
    "no": "不能成功",
    "as for the upstream's status": "取决于上游的状态码",
    "no at a login page, otherwise as for the upstream's status": "在登录页不能成功，其他取决于上游的状态码",
    "yes, but not if the certificate is at fault": "能成功，除非证书有问题",
}
"""The words of the facts on docs/zh/errors.md."""
OF_UPSTREAM = (UpstreamErrorReply, UpstreamAuth, UpstreamHtml)
"""Errors with the upstream's own status."""
STATUSES: Mapping[type[GatepassError], str] = {McpNotAllowed: "403; 200 with an error in JSON-RPC at `/mcp`"}
"""Of an error whose status depends on the request."""


def error_entry(code: str, language: str) -> Entry:
    kind = kind_of(code)
    given = {**ARGUMENTS_OF_ERROR, "phase": code.removeprefix(f"{UpstreamTimeout.code}_"), "code": code}
    wanted = inspect.signature(kind).parameters.values()
    arguments = {each.name: given[each.name] for each in wanted if each.name in given and each.default is each.empty}
    error = kind(message=MESSAGES[code], **arguments)
    own, texts = explanations()[code], explained(code, {})
    of_code = {f"`{case}`": explained(case, {}) for case, entry in explanations().items() if entry.of == code}
    known = {
        "Status": STATUSES.get(kind, "the upstream's" if kind in OF_UPSTREAM else str(error.http_status)),
        "Retry": RETRIES.get(kind, "yes" if kind.retryable else "no"),
    }
    if language == "en":
        facts = {"Action": texts["action"]}
        facts |= {name: f"{case['sentence']} {case['action']}" for name, case in of_code.items()}
        shown = known | {name: with_settings(unwrapped(text)) for name, text in facts.items()}
        more = with_settings(introduced(unwrapped(own.more), "Causes"))
        shown["Message"] = code_span(error.message)
        return Entry(code, with_settings(texts["sentence"]), shown, details=more)
    facts = {"处理": texts["action_zh"]}
    facts |= {name: case["sentence_zh"] + case["action_zh"] for name, case in of_code.items()}
    status, retry = (CHINESE.get(text, text) for text in known.values())
    shown = {"状态码": f"{status}；重试{retry}"}
    for name, text in facts.items():
        shown[name] = with_settings(text, "../reference/")
    more = with_settings("\n\n".join(filter(None, [own.more_zh, own.details_zh])), "../reference/")
    return Entry(code, with_settings(texts["sentence_zh"], "../reference/"), shown, details=more, colon="：")


def code_span(text: str) -> str:
    """Return `text` as code, which may contain single backticks itself."""
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def with_settings(text: str, folder: str = "") -> str:
    """Make a link of each setting in `text` that has one heading on the page of the settings, which is in `folder`."""
    links = setting_links()
    return re.sub(
        r"`([a-zA-Z_.\[\]]+)`",
        lambda found: f"[{found[0]}]({folder}{links[found[1]]})" if found[1] in links else found[0],
        text,
    )


def error_codes(language: str) -> str:
    """Return the entries of docs/reference/errors.md or docs/zh/errors.md, with one link to each setting."""
    return re.sub(
        r"\[(`[^`]+`)\]\([^)]+\)",
        lambda link: link[1] if link[0] in link.string[: link.start()] else link[0],
        joined(error_parts(language)),
    )


def error_parts(language: str) -> list[Entry | str]:
    """Return the entries in the order of errors.json, with a heading before each group."""
    parts: list[Entry | str] = []
    for code in (name for name, entry in explanations().items() if not entry.of):
        for base, (english, chinese, hop) in GROUPS.items():
            title = f"## {english}\n\nHop: `{hop}`\n" if language == "en" else f"## {chinese}\n\nhop：`{hop}`\n"
            if issubclass(kind_of(code), base) and title not in parts:
                parts.append(title)
        parts.append(error_entry(code, language))
    return parts
