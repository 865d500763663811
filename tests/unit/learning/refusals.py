"""Thirty ways in which an upstream refuses one member of a request, and five members that are safe to remove.

Each wording names the member as a whole word of ASCII letters, digits and `_`, in some spelling, or only in `param` or
`loc`. Letters of other scripts may follow the name without a blank, as in Japanese and Korean.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Refuse = Callable[[dict[str, Any]], tuple[int, Any] | None]


@dataclass(frozen=True)
class Name:
    """A member's name in the spellings that upstreams use."""

    snake: str

    @property
    def camel(self) -> str:
        first, *others = self.snake.split("_")
        return first + "".join(one.title() for one in others)

    @property
    def pascal(self) -> str:
        return self.snake.title().replace("_", "")

    @property
    def blanks(self) -> str:
        return self.snake.replace("_", " ")

    @property
    def title(self) -> str:
        return self.blanks.title()

    @property
    def kebab(self) -> str:
        return self.snake.replace("_", "-")

    @property
    def spellings(self) -> frozenset[str]:
        return frozenset((self.snake, self.camel, self.pascal, self.blanks, self.title, self.kebab))


@dataclass(frozen=True)
class Wording:
    """How one upstream refuses a member: `error` returns the status and the error body for a name and its value."""

    name: str
    error: Callable[[Name, Any], tuple[int, Any]]
    language: str = "en"


@dataclass(frozen=True)
class Member:
    """A member that is safe to remove, in a request that is accepted without it."""

    name: str
    value: Any
    accepted: dict[str, Any]

    @property
    def request(self) -> dict[str, Any]:
        return {**self.accepted, self.name: self.value}


def upstream(wording: Wording, member: Member) -> Refuse:
    """Return an upstream that refuses the member, whatever its value, and accepts everything else."""

    def refuse(body: dict[str, Any]) -> tuple[int, Any] | None:
        if member.name not in body:
            return None
        return wording.error(Name(member.name), body[member.name])

    return refuse


def openai(
    message: str, param: str | None = None, code: Any = None, kind: str | None = "invalid_request_error"
) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def inner(message: str) -> dict[str, Any]:
    """The error of a provider, as text in the error of the router in front of it."""
    raw = json.dumps({"error": {"message": message, "status": 400}})
    return {
        "error": {"message": "Provider returned error", "code": 400, "metadata": {"raw": raw, "provider_name": "Hill"}}
    }


def pydantic(name: Name, value: Any) -> dict[str, Any]:
    row = {"type": "surplus", "loc": ["body", name.snake], "msg": "Nobody asked for this", "input": value}
    return {"detail": [row]}


def problem(name: Name) -> dict[str, Any]:
    detail = "The document carries a property that the server has no use for."
    return {
        "type": "https://errors.hill.example/unwanted",
        "title": "Unwanted property",
        "status": 422,
        "detail": detail,
        "errors": [{"detail": "no use for it", "pointer": f"#/{name.snake}"}],
    }


def spring(message: str) -> dict[str, Any]:
    when = "2026-02-03T09:14:55.120+00:00"
    return {
        "timestamp": when,
        "status": 400,
        "error": "Bad Request",
        "message": message,
        "path": "/v1/chat/completions",
    }


def zod(name: Name) -> dict[str, Any]:
    text = f'Unrecognized key: "{name.snake}"'
    issue = {"code": "unrecognized_keys", "keys": [name.snake], "path": [], "message": text}
    return {"success": False, "error": {"name": "ZodError", "issues": [issue]}}


SERDE = "unknown field `{}`, expected one of `model`, `messages`, `max_tokens`, `stop` at line 1 column 93"
JACKSON = (
    'Unrecognized field "{}" (class ai.hill.gateway.ChatRequest), not marked as ignorable '
    '(3 known properties: "model", "messages", "maxTokens"])'
)
LITELLM = (
    "litellm.UnsupportedParamsError: hill does not take these parameters: {}, for model=corp-chat. "
    "Received Model Group=corp-chat"
)
BEDROCK = "Malformed input request: #: extraneous key [{}] is not permitted, please reformat your input"

SAFE_WORDINGS = (
    Wording("off_limits", lambda n, v: (400, openai(f"`{n.snake}` is off-limits for this deployment."))),
    Wording(
        "reserved", lambda n, v: (400, openai(f'"{n.camel}" is reserved for internal callers.', code=400, kind=None))
    ),
    Wording("phased_out", lambda n, v: (400, {"error": f"{n.blanks} has been phased out, see the migration guide"})),
    Wording("refrain", lambda n, v: (422, {"message": f"Please refrain from sending '{n.snake}'."})),
    Wording("not_here", lambda n, v: (400, {"detail": f"We do not do {n.blanks} here."})),
    Wording("lose_it", lambda n, v: (400, openai(f"Nice try, but please lose the {n.camel}", code="E1007"))),
    Wording(
        "not_on_our_watch", lambda n, v: (400, {"code": 40017, "msg": f"{n.snake}? Not on our watch.", "data": None})
    ),
    Wording("param_alone", lambda n, v: (400, openai("One of the arguments was turned away.", param=n.snake))),
    Wording("loc_alone", lambda n, v: (422, pydantic(n, v))),
    Wording("json_path", lambda n, v: (400, openai(f"Schema walk ended at $.{n.snake}: no rule covers this node"))),
    Wording("problem_pointer", lambda n, v: (422, problem(n))),
    Wording("slash_path", lambda n, v: (400, {"error": {"message": f"Property at /{n.snake} has no business here"}})),
    Wording("dotted_path", lambda n, v: (400, {"errors": [{"message": f"body.{n.camel}: surplus to requirements"}]})),
    Wording("bedrock", lambda n, v: (400, {"message": BEDROCK.format(n.snake), "__type": "ValidationException"})),
    Wording("go", lambda n, v: (400, {"error": f'json: unknown field "{n.snake}"'})),
    Wording("serde", lambda n, v: (422, {"error": SERDE.format(n.snake), "error_type": "deserialize"})),
    Wording("jackson", lambda n, v: (400, spring(JACKSON.format(n.snake)))),
    Wording("zod", lambda n, v: (400, zod(n))),
    Wording("litellm", lambda n, v: (400, openai(LITELLM.format({n.snake: v}), code="400", kind=None))),
    Wording(
        "sunset", lambda n, v: (400, openai(f"Support for the {n.title} knob ended in spring.", kind="internal_error"))
    ),
    Wording("go_struct", lambda n, v: (400, {"error": f"ChatRequest.{n.pascal} makes our engine sneeze"})),
    Wording("inner_json", lambda n, v: (400, inner(f"keep your {n.kebab} to yourself"))),
    Wording("german", lambda n, v: (400, openai(f"Die Angabe „{n.snake}“ brauchen wir hier nicht.")), "de"),
    Wording("german_blanks", lambda n, v: (422, {"detail": f"Bitte {n.blanks} weglassen."}), "de"),
    Wording("french", lambda n, v: (400, openai(f"Merci de retirer « {n.snake} » de votre demande.")), "fr"),
    Wording(
        "spanish", lambda n, v: (400, {"message": f"Aquí no admitimos {n.camel}; quítelo e inténtelo otra vez."}), "es"
    ),
    Wording("japanese", lambda n, v: (400, openai(f"「{n.snake}」はこのモデルでは使えません。")), "ja"),
    Wording("japanese_attached", lambda n, v: (400, {"error": f"{n.snake}パラメータの指定はご遠慮ください"}), "ja"),
    Wording("korean", lambda n, v: (400, openai(f"{n.snake}는 이 모델에서 받지 않습니다.")), "ko"),
    Wording("russian", lambda n, v: (400, {"error": {"message": f"Поле {n.snake} здесь лишнее, уберите его"}}), "ru"),
)

PLAIN = {
    "model": "corp-chat",
    "messages": [
        {"role": "system", "content": "Answer briefly."},
        {"role": "user", "content": "Which form do I need for a day off?"},
    ],
    "max_tokens": 256,
}
LOOKUP = {
    "type": "function",
    "function": {
        "name": "find_form",
        "description": "Find a form by its title",
        "parameters": {"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]},
    },
}
SAFE_MEMBERS = (
    Member("temperature", 0.3, PLAIN),
    Member("seed", 7, PLAIN),
    Member("parallel_tool_calls", False, {**PLAIN, "tools": [LOOKUP]}),
    Member("reasoning_effort", "low", PLAIN),
    Member("stream_options", {"include_usage": True}, {**PLAIN, "stream": True}),
)
