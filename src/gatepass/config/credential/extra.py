"""Kinds of credential whose library comes as an extra: refused at load where it is not there."""

from __future__ import annotations

from importlib.util import find_spec


def checked_extra(module: str, extra: str, kind: str) -> None:
    """Raises ValueError, which says what to install, where `module` of the extra is missing. Imports nothing."""
    if not _is_there(module):
        raise ValueError(f"{kind} needs a library that is not installed: pip install 'gatepass[{extra}]'")


def _is_there(module: str) -> bool:
    """find_spec imports the parents of a dotted name: `azure` and `google` are namespaces, which costs nothing."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
