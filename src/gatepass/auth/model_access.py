"""What a request names beside its model: other models, destinations and credentials, for keys that cover some models.

An upstream may be a gateway itself. LiteLLM, OpenRouter and others take the model of a fallback, the URL of another
server or a key for it from members of the body.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase

from gatepass.config.access import AccessKey
from gatepass.errors import (
    ModelNotAllowed,
)
from gatepass.json_scan import (
    MOST_STEPS,
    JsonScanner,
    ScannedBody,
    any_of,
    folded,
    may_name_in_any_case,
    occurs_at_most,
    string,
)
from gatepass.types import Operation

MODELS = frozenset(
    (
        *("models", "model_name", "engine", "deployment", "deployment_id", "azure_deployment"),
        *("fallbacks", "fallback_models", "default_fallbacks", "context_window_fallbacks", "content_policy_fallbacks"),
    )
)
"""Members with the name of a model, several of them, or objects with a `model` or with lists of models."""
DESTINATIONS = frozenset(
    (
        *("api_base", "base_url", "api_url", "endpoint", "azure_endpoint", "server_url", "custom_llm_provider"),
        *("api_key", "api_keys", "azure_ad_token", "authorization", "headers", "extra_headers", "api_type"),
        *("litellm_params", "litellm_credential_name", "model_list", "user_config", "router_settings_override"),
        *("aws_access_key_id", "aws_secret_access_key", "aws_session_token", "aws_bedrock_runtime_endpoint"),
        *("aws_role_name", "aws_profile_name", "aws_sts_endpoint", "aws_web_identity_token"),
        *("vertex_credentials", "vertex_project", "vertex_location", "vertex_ai_credentials"),
    )
)
"""Members with the place of another server, with a credential for it, or with whole configurations of both."""
NESTED = frozenset(("extra_body",))
"""Members whose own members some servers move to the top level."""

REFUSED_PARTS = MODELS | DESTINATIONS | NESTED
"""Names of a form's parts. A model in one is refused too: no operation with a form has one beside `model`."""
_STEPS = re.compile(r"[\[\].\0]")
_AROUND_STEP = " \t\n\r\v\f'\""

_MODEL, _TOOLS = "model", "tools"
_ANY = any_of(*(name.replace("_", "[_-]?") for name in sorted(MODELS | DESTINATIONS | NESTED)))
_ANY_TOOLS, _ANY_MODEL = any_of(_TOOLS), re.compile(rb'(?i:"model")')


def _joined(name: str) -> str:
    """`name` without regard to case and to what parts its words: servers in Go and TypeScript read `apiBase`."""
    return folded(name).replace("_", "").replace("-", "")


_MODELS, _DESTINATIONS, _NESTED, _PARTS = (
    frozenset(map(_joined, names)) for names in (MODELS, DESTINATIONS, NESTED, REFUSED_PARTS)
)


def check_body_access(
    caller: AccessKey, body: bytes, most_steps: int = MOST_STEPS, *, names_model: bool = False
) -> None:
    """Raises ModelNotAllowed where `body`, which a parser has accepted, names what the caller's key does not cover, and
    TooManySteps where that takes more than `most_steps` (see Walk).

    `names_model`: the object has exactly one `model` member of its own, in plain letters. `check_model_access` checks
    that one. Names are compared without case, `_` and `-`. Every repetition of a name counts.
    """
    if caller.models is not None and (
        may_name_in_any_case(body, _ANY) or _may_name_in_tools(body, names_model=names_model)
    ):
        _permit_object(caller, JsonScanner(body, most_steps), 0, is_top=True)


def _may_name_in_tools(body: bytes, *, names_model: bool) -> bool:
    """Whether a tool in `body` may have a `model`: not where that stands nowhere but at the top level."""
    if type(body) is not ScannedBody and occurs_at_most(body, _ANY_MODEL, int(names_model)):
        return False
    return may_name_in_any_case(body, _ANY_TOOLS)


def permit_part(caller: AccessKey, name: str) -> None:
    """Raises ModelNotAllowed where the part `name` of a form, such as `extra_body[api_base]`, may name other models, a
    server or a credential, and the caller's key covers some models only."""
    if caller.models is None:
        return
    for step in _STEPS.split(name):
        if _joined(step).strip(_AROUND_STEP) in _PARTS:
            raise ModelNotAllowed(
                f"The caller {caller.name!r} may use some models only, and the part {name[:200]!r} of the form may name"
                " other models, a server or a credential. Leave it out.",
                param=name[:200],
            )


def _permit_object(caller: AccessKey, scanner: JsonScanner, at: int, *, is_top: bool = False) -> None:
    for member in scanner.members(at):
        name = _joined(member.name)
        if name in _DESTINATIONS:
            raise ModelNotAllowed(
                f"The caller {caller.name!r} may use some models only, and {member.name!r} may name another server or"
                " credential. Leave it out.",
                param=member.name,
            )
        if name in _MODELS or (name == _MODEL and not is_top):
            _permit_all(caller, member.name, _models_in(caller, scanner, member.value))
        elif name == _TOOLS:
            _permit_all(caller, "tools", _models_of_tools(scanner, member.value))
        elif name in _NESTED and scanner.text.startswith(b"{", member.value):
            _permit_object(caller, scanner, member.value)


def _permit_all(caller: AccessKey, member: str, models: Iterator[str]) -> None:
    for model in models:
        if not may_use(caller, model):
            raise ModelNotAllowed(
                f"The caller {caller.name!r} may not use the model {model[:200]!r}, which `{member}` names.",
                param=member,
            )


def _models_in(caller: AccessKey, scanner: JsonScanner, at: int) -> Iterator[str]:
    """The models in the value at `at`: a name, a list of such values, or an object with a `model`, or with lists of
    models by any name. What else an object with a `model` names is checked on the way."""
    sign = scanner.text[at : at + 1]
    if sign == b'"':
        yield string(scanner.text[at : scanner.value_end(at)])
    elif sign == b"[":
        for start, _ in scanner.elements(at):
            yield from _models_in(caller, scanner, start)
    elif sign == b"{":
        listed = list(scanner.members(at))
        if any(folded(member.name) == _MODEL for member in listed):
            _permit_object(caller, scanner, at)
            return
        for member in listed:
            yield from _models_in(caller, scanner, member.value)


def _models_of_tools(scanner: JsonScanner, at: int) -> Iterator[str]:
    """The `model` of each tool, as that of OpenAI's image_generation."""
    if not scanner.text.startswith(b"[", at):
        return
    for start, _ in scanner.elements(at):
        if scanner.text.startswith(b"{", start):
            for member in scanner.members(start):
                if folded(member.name) == _MODEL and scanner.text.startswith(b'"', member.value):
                    yield string(scanner.text[member.value : member.end])


def check_model_access(caller: AccessKey, model: str) -> None:
    """Raises ModelNotAllowed where the caller's key does not cover `model`."""
    if not model and not may_use(caller, model):
        raise ModelNotAllowed(f"The caller {caller.name!r} may use some models only, and the request names none.")
    if not may_use(caller, model):
        raise ModelNotAllowed(f"The caller {caller.name!r} may not use the model {model!r}.", param="model")


def check_operation_access(caller: AccessKey, operation: Operation) -> None:
    """Raises ModelNotAllowed where the caller's key covers some models only and `operation` may run any: a file of a
    batch names models of its own, and a model that its request names holds nothing back."""
    if caller.models is not None and not operation.names_model:
        raise ModelNotAllowed(
            f"The caller {caller.name!r} may use some models only; {operation.name} may run or hold those of others."
        )


def may_use(caller: AccessKey, model: str) -> bool:
    return caller.models is None or any(fnmatchcase(model, pattern) for pattern in caller.models)
