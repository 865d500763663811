"""Usage as clients add it up: once for a stream."""

from __future__ import annotations

from gatepass.relay.chunk import Object
from gatepass.relay.repair.tools import Note
from gatepass.relay.repair.wishes import USAGE


class UsageRepair:
    """Lets the last usage through and no other; LangChain and Open WebUI sum up whatever comes, and
    RAGFlow too (vLLM, SGLang and DashScope can send it with every chunk).

    Where the client asked for it, it goes into a chunk of its own after the last choice; where it did
    not, only what stands beside the last finish reason stays. `wanted` None lets everything through.
    """

    __slots__ = ("_has_told", "_held", "_wanted")

    def __init__(self, wanted: bool | None) -> None:
        self._wanted = wanted
        self._held: Object | None = None
        self._has_told = False

    def mend_beside_choices(self, said: Object, is_complete: bool, note: Note) -> None:
        """Take the usage out of a chunk with choices, unless it may stay there."""
        if self._wanted is None:
            return
        if self._wanted:
            self._hold(said)
            said["usage"] = None
        elif is_complete and not self._has_told:
            self._has_told = True
            return
        else:
            del said["usage"]
        note(USAGE)

    def passes_alone(self, said: Object, is_complete: bool, note: Note) -> bool:
        """Whether the usage of a chunk without choices goes on with it; if not it is taken out, and held
        where it is wanted later."""
        if self._wanted is None:
            return True
        if self._wanted and is_complete and not self._has_told:
            self.close()
            return True
        self._hold(said)
        del said["usage"]
        note(USAGE)
        return False

    def close(self) -> None:
        """The usage was told in another way: no more of it."""
        self._has_told, self._held = True, None

    def take(self) -> Object | None:
        """The usage that is still to be told at the end."""
        held, self._held = self._held, None
        return held

    def _hold(self, said: Object) -> None:
        if self._wanted and not self._has_told:
            self._held = said["usage"]
