"""Extras: what wants a library of its own is refused at load where that is not there, with how to get it."""

from __future__ import annotations

from importlib.util import find_spec


def checked_extra(module: str, extra: str, kind: str) -> None:
    """Raises ValueError, which says what to install, where `module` of the extra is missing. Imports nothing."""
    if not _is_there(module):
        raise ValueError(f"{kind} needs a library that is not installed: {how_to_install(extra)}")


def how_to_install(extra: str) -> str:
    """What works: no index has a package called gatepass, and whoever registered one could say anything in it."""
    return f"{in_a_clone(extra)}, for the image docker build --build-arg EXTRAS={extra}"


def in_a_clone(extra: str) -> str:
    return f"in a clone pip install '.[{extra}]'"


def _is_there(module: str) -> bool:
    """find_spec imports the parents of a dotted name: `azure` and `google` are namespaces, which costs nothing."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
