"""Write what an error means and what to do: an entry of errors.json, with the names of one request or fetch.

Every surface takes its texts from here. A setting gets its GATEPASS_ variable here and nowhere else.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from gatepass.config.references import PREFIX, SECRET_VARIABLES
from gatepass.errors import explanations

GENERIC: Mapping[str, str] = {
    "upstream": "upstreams.NAME",
    "upstream_name": "NAME",
    "url": "upstreams.NAME.base_url",
    "server_url": "mcp.NAME.url",
    "token_placement": "upstreams.NAME.token_placement",
    "credential": "NAME",
    "claim": "NAME",
    "mcp_setting": "access.keys[].mcp, access.jwt[].callers[].mcp",
    "models_setting": "access.keys[].models, access.jwt[].callers[].models",
    "operations_setting": "access.keys[].operations, access.jwt[].callers[].operations",
    "model": "NAME",
    "quoted_model": "MODEL",
    "operation": "NAME",
    "host": "HOST",
    "longer_s": "20",
    "proxy": "network.proxy",
    "own_proxy": "upstreams.NAME.network.proxy",
    "proxy_auth": "network.proxy_auth",
    "ca_file": "network.ca_file",
    "client_cert": "network.client_cert",
}
"""What stands for a placeholder of which a page, or an error, knows no value."""
_PIECE = r"`\{(\w+)\}`|`([^`]+)`|\{(\w+)\}"
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


def _is_of_environment() -> bool:
    """Whether the environment alone configures gatepass."""
    return bool(os.environ.get(f"{PREFIX}UPSTREAM_URL")) and not os.environ.get(f"{PREFIX}CONFIG")


def with_variable(setting: str) -> str:
    """Return the full name of a setting, with its variable if the environment alone configures gatepass."""
    if not _is_of_environment():
        return setting
    from gatepass.config.load import SETTING_VARIABLES  # only then, because it loads pydantic

    variable = SETTING_VARIABLES.get(setting)
    also = f" or {PREFIX}{variable}_FILE" if variable in SECRET_VARIABLES else ""
    return f"{setting} ({PREFIX}{variable}{also})" if variable else setting


def _needs_file(setting: str) -> bool:
    """Whether `setting`, or all of a block, has no variable, and the environment alone configures gatepass."""
    if "." not in setting or ".NAME" in setting or not _is_of_environment():
        return False
    from gatepass.config.load import SETTING_VARIABLES
    from gatepass.config.model import Config

    has_variable = any(f"{known}.".startswith(f"{setting}.") for known in SETTING_VARIABLES)
    return setting.partition(".")[0] in Config.model_fields and not has_variable


def explained(name: str, values: Mapping[str, str]) -> dict[str, str]:
    """Return the texts of an entry by their names, with `values` in place of its placeholders.

    A value may be several settings with commas. A placeholder without a value is the entry of that name, with
    `_environment` behind it if there is one and the environment alone configures gatepass.
    """
    members = ("sentence", "action", "advice", "sentence_zh", "action_zh")
    return {member: filled(name, member, values) for member in members}


def filled(name: str, member: str, values: Mapping[str, str]) -> str:
    """Return one text of `explained`."""
    entry, known = explanations()[name], {**GENERIC, **values}
    text, is_chinese = getattr(entry, member) or entry.action * (member == "advice"), member.endswith("_zh")
    named = set[str]()
    for placeholder in {*_PLACEHOLDER.findall(text)} - known.keys():
        part = f"{placeholder}_environment"
        part = part if part in explanations() and _is_of_environment() else placeholder
        if part in explanations():
            known[placeholder] = filled(part, member, values)
    if entry.setting:
        known.setdefault("setting", _PLACEHOLDER.sub(lambda found: known.get(found[1], found[0]), entry.setting))

    def written(piece: re.Match[str]) -> str:
        inside = _PLACEHOLDER.sub(lambda found: known.get(found[1], found[0]), piece[0].strip("`"))
        parts = inside.split(", ") if piece[2] is None else [inside]
        settings = [with_variable(one) for one in parts]
        named.update(parts)
        if piece[3] is not None:
            return ", ".join(settings)
        either = " 或 " if is_chinese else " or "
        codes = [f"`{one}`".replace(f" ({PREFIX}", f"` (`{PREFIX}") for one in settings]
        codes = [code.replace(")`", "`)") if f"(`{PREFIX}" in code else code for code in codes]
        codes = [code.replace(f" or {PREFIX}", f"`{either}`{PREFIX}") for code in codes]
        return either.join(filter(None, (("、" if is_chinese else ", ").join(codes[:-1]), codes[-1])))

    whole = re.sub(_PIECE, written, text)
    if entry.setting:  # also where the error's cause names it
        named.update(known["setting"].split(", "))
    is_short = "sentence" in member or not any(map(_needs_file, named))
    return whole if is_short else whole + filled("needs_file", member, {})


@dataclass(frozen=True, slots=True)
class Advice:
    """What to do: the entry `case` of errors.json, and the values of its placeholders. Without a case there is none.

    Its text is that of an error message: English, and only commands of gatepass with backticks.
    """

    case: str = ""
    names: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.case != ""

    def __str__(self) -> str:
        text = filled(self.case, "advice", self.names) if self.case else ""
        return re.sub(r"`(?!gatepass )([^`]*)`", r"\1", text)

    def masked(self, mask: Callable[[str], str]) -> Advice:
        return Advice(self.case, {name: mask(value) for name, value in self.names.items()})
