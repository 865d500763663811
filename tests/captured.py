"""The captured bodies of a story as texts, for comparisons."""

from collections.abc import Iterable
from typing import Any

from gatepass.documents import Body


def texts(bodies: Iterable[Body]) -> dict[str, Any]:
    """Return the texts of `request`, of all that was `sent`, and of the `replies`, and whether a body is `cut`."""
    named: dict[str, list[str]] = {"request": [], "sent": [], "reply": []}
    is_cut = False
    for one in bodies:
        named[one.name].append(one.text)
        is_cut = is_cut or one.cut
    return {
        "request": next(iter(named["request"]), None),
        "sent": "\n".join(named["sent"]) if named["sent"] else None,
        "replies": named["reply"],
        "cut": is_cut,
    }
