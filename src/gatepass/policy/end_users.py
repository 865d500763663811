"""EndUsers: the limits of the users behind the keys, of which a process remembers a bounded number."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

from gatepass.policy.limits import Counts, Limit

MOST_END_USERS = 10_000


class EndUsers(Counts):
    """The limits of the end users of one process, which alone counts them. They outlive a reload."""

    def __init__(self, most: int = MOST_END_USERS) -> None:
        super().__init__()
        self._most = most
        self._found: OrderedDict[tuple[str, str], tuple[Sequence[Limit], Sequence[Limit]]] = OrderedDict()
        """By the owner, the least recently used first: the limits from which those of the user were made, and these."""

    def of(self, name: str, shared: Sequence[Limit], now_s: float) -> Sequence[Limit]:
        """Return the limits of the end user `name`, or `shared` if there is no place for one more.

        `shared` are the limits of all further users of the same caller. A user is forgotten only while its limits count
        nothing, so that it has no fresh budget when it comes back. The turn of an oldest one that counts comes later.
        """
        kind, caller = shared[0].owner
        owner = (kind, f"{caller}/{blake2b(name.encode(errors='replace'), digest_size=16).hexdigest()}")
        made_from, own = self._found.get(owner, ((), ()))
        if not own and len(self._found) >= self._most:
            oldest = next(iter(self._found))
            if any(limit.used(now_s) for limit in self._found[oldest][1]):
                self._found.move_to_end(oldest)
                return shared
            del self._found[oldest]
        if made_from is not shared:
            kept = {limit.key: limit.use for limit in own}
            own = [Limit(owner, one.unit, one.span, one.most) for one in shared]
            for limit in own:
                limit.use = kept.get(limit.key, limit.use)
            self._found[owner] = (shared, own)
        self._found.move_to_end(owner)
        return own
