"""Rule "strays": members that clients send by mistake and strict upstreams refuse."""

from __future__ import annotations

from msgspec.structs import replace

from gatepass.call import Call, Target
from gatepass.jsontext import Walk, any_of, edited, may_name, removals

STRAYS = ("drop_params", "model_type")
"""RAGFlow sends the first with every embedding up to v0.27.0 (infiniflow/ragflow#18584) and let the
second slip into chats (infiniflow/ragflow#15427). Azure answers: Unrecognized request argument."""

_STRAYS = any_of(*STRAYS)


class Strays:
    """Takes the members named in STRAYS out of the top level, always; entry `drop=NAME,NAME`."""

    name = "strays"

    def apply(self, call: Call, target: Target) -> Call:
        del target
        if not may_name(call.body, _STRAYS):
            return call
        listed = list(Walk(call.body).members())
        gone = [member for member in listed if member.name in STRAYS]
        if not gone:
            return call
        found = {member.name for member in gone}
        entry = "drop=" + ",".join(name for name in STRAYS if name in found)
        return replace(call, body=edited(call.body, removals(listed, gone)), adapted=(*call.adapted, entry))
