"""Write the codes of docs/reference/errors.md and docs/zh/errors.md, and the Chinese texts of the page at /ui.

The words are the docstrings of the errors, docs/texts/error_labels.yaml and docs/zh/error_codes.yaml.
"""

from __future__ import annotations

import functools
import inspect
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from docs.entries import Entry, joined, read, unwrapped
from docs.error_messages import MESSAGES
from docs.setting_reference import introduced, setting_links

from gatepass.errors import (
    GatepassError,
    GatewayError,
    InternalError,
    McpNotAllowed,
    TokenUnavailable,
    UpstreamAuth,
    UpstreamError,
    UpstreamErrorReply,
    UpstreamHtml,
    UpstreamTimeout,
    UpstreamTls,
)

GROUPS: Mapping[type[GatepassError], tuple[str, str]] = {
    GatewayError: ("Errors of this process", "gatepass"),
    TokenUnavailable: ("Errors of a token source", "credential:NAME"),
    UpstreamError: ("Errors of an upstream", "upstream:NAME"),
}
"""The heading of a group, and the hop of its errors."""
PHASES = ("connect", "first_byte", "idle", "total")
ARGUMENTS_OF_ERROR: Mapping[str, Any] = {
    "upstream": "chat",
    "credential": "corp",
    "allow": "POST",
    "status": 400,
    "phase": "connect",
}
RETRIES: Mapping[type[GatepassError], str] = {
    UpstreamErrorReply: "as for the upstream's status",
    UpstreamHtml: "no at a login page, otherwise as for the upstream's status",
    UpstreamTls: "yes, but not if the certificate is at fault",
}
"""Errors for which a retry can succeed only sometimes."""
LABELS: Mapping[str, Mapping[str, Any]] = read("texts/error_labels.yaml")
ACTIONS: Mapping[str, str] = {case: label["en"] for case, label in LABELS["actions"].items()}
"""The labels of the `actions` of an error, and of a part of the action of `upstream_error`."""
CHINESE: Mapping[str, str] = {
    **{label["en"]: label["zh"] for label in LABELS["actions"].values()},
    **LABELS["chinese"],
}
"""The words of docs/zh/errors.md that are not in docs/zh/error_codes.yaml."""
OF_UPSTREAM = (UpstreamErrorReply, UpstreamAuth, UpstreamHtml)
"""Errors with the upstream's own status."""
STATUSES: Mapping[type[GatepassError], str] = {McpNotAllowed: "403; 200 with an error in JSON-RPC at `/mcp`"}
"""Of an error whose status depends on the request."""


def error_kinds(base: type[GatepassError] = GatepassError) -> Iterator[type[GatepassError]]:
    """Yield every error with a code of its own, in the order of the tree."""
    for kind in base.__subclasses__():
        if kind.code != base.code or kind is InternalError:
            yield kind
        yield from error_kinds(kind)


def error_entries(kind: type[GatepassError]) -> Iterator[Entry]:
    text, _, action = unwrapped(inspect.cleandoc(kind.__doc__ or "")).partition("\n\nAction: ")
    cause, _, details = text.partition("\n\n")
    action, _, unknown_model = action.partition(" If it does not know the model, ")
    for phase in PHASES if kind is UpstreamTimeout else ("",):
        given = {**ARGUMENTS_OF_ERROR, "phase": phase}
        wanted = inspect.signature(kind).parameters.values()
        arguments = {
            each.name: given[each.name] for each in wanted if each.name in given and each.default is each.empty
        }
        error = kind("", **arguments)
        error = kind(MESSAGES[error.public_code], **arguments)
        if phase:
            cause, details = re.findall(rf"^- `{phase}`: (.+)$", text, re.MULTILINE)[0], ""
            cause = cause[0].upper() + cause[1:] if cause.startswith("the") else cause
        retry = RETRIES.get(kind, "yes" if kind.retryable else "no")
        facts = {
            "Status": STATUSES.get(kind, "the upstream's" if kind in OF_UPSTREAM else str(error.http_status)),
            "Retry": retry,
            "Action": with_settings(UpstreamTimeout.actions_of_codes.get(error.public_code, action)),
            **({ACTIONS["unknown_model"]: with_settings(f"C{unknown_model[1:]}")} if unknown_model else {}),
            **{ACTIONS[case]: with_settings(text) for case, text in vars(kind).get("actions", {}).items()},
            "Message": code_span(error.message),
        }
        more = with_settings(introduced(details, "Causes"))
        yield Entry(error.public_code, with_settings(cause), facts, details=more)


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
    """Return the entries of docs/reference/errors.md or docs/zh/errors.md."""
    parts = error_parts()
    return joined(parts if language == "en" else map(in_chinese, parts))


def in_chinese(part: Entry | str) -> Entry | str:
    if isinstance(part, str):
        heading, _, hop = part.strip("# \n").partition("\n\nHop: ")
        return f"## {CHINESE[heading]}\n\nhop：{hop}\n"
    words = chinese_errors()[part.title]
    action, _, unknown_model = words["action"].partition("如果上游不认识该模型，")
    own = {
        "Action": action,
        ACTIONS["unknown_model"]: unknown_model,
        **{ACTIONS[case]: text for case, text in words.get("actions", {}).items()},
    }
    # the page at /ui replaces names in the English lists
    chinese = {name: with_settings(text.replace("`, `", "`、`"), "../reference/") for name, text in own.items()}
    facts = {
        CHINESE[name]: chinese.get(name) or CHINESE.get(text, text)
        for name, text in part.facts.items()
        if name != "Message"  # the reader has it, and it is English
    }
    details = with_settings("\n\n".join(filter(None, [words.get("more"), words.get("details")])), "../reference/")
    cause = with_settings(words["cause"], "../reference/")
    return Entry(part.title, cause, facts, details=details.rstrip(), colon="：")


@functools.cache
def chinese_errors() -> Mapping[str, Mapping[str, Any]]:
    texts: Mapping[str, Mapping[str, Any]] = read("zh/error_codes.yaml")
    return texts


def page_errors() -> str:
    """Return the Chinese texts of error codes for the page at /ui."""
    texts = {
        code: {"text": words["cause"] + words.get("more", ""), "action": words["action"]}
        for code, words in chinese_errors().items()
    }
    for words in chinese_errors().values():
        texts |= {
            case: {"text": words["causes"][case], "action": action} for case, action in words.get("actions", {}).items()
        }
    head = "// Generated by `make reference` from docs/zh/error_codes.yaml: what each error code means, and what to do."
    return f"{head}\n\nexport const ERRORS = {json.dumps(texts, ensure_ascii=False, indent=2)};\n"


def error_parts() -> list[Entry | str]:
    parts: list[Entry | str] = []
    for kind in error_kinds():
        groups = [group for base, group in GROUPS.items() if issubclass(kind, base)]
        headings = [f"## {text}\n\nHop: `{hop}`\n" for text, hop in groups]
        parts += [heading for heading in headings if heading not in parts]
        parts += error_entries(kind)
    return parts
