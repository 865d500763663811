"""The script by which a store counts limits of use, its arguments and its replies."""

from __future__ import annotations

from collections.abc import Sequence

from gatepass.store.base import Command

LEASE_S = 30
"""How long the store counts a request in progress whose process was killed."""
MINUTE_S = 65
NO_LIMIT = 10**15
MOST_DIGITS = 16
"""The longest number in a reply: a count, the number of a part, or milliseconds."""

SCRIPT = """
local time, fits, reply = redis.call('TIME'), true, {}
local now = time[1] + time[2] / 1000000
local part = math.floor(now / 5)
for at, name in ipairs(KEYS) do
  local kept, life, most, amount, of, known = unpack(ARGV, 6 * at - 5, 6 * at)
  local counts, used, wait, last = {}, 0, -1, (kept == '1' and of or part) + 0
  for one = last - kept + 1, last do counts[#counts + 1] = name .. ':' .. one end
  if kept == '0' then
    redis.call('ZREMRANGEBYSCORE', name, '-inf', now)
    counts = {redis.call('ZCARD', name)}
  else
    counts = redis.call('MGET', unpack(counts))
  end
  for _, count in ipairs(counts) do used = used + (count or known) end
  local over = used + amount - most
  for i, count in ipairs(counts) do
    if over > 0 then over, wait = over - (count or known), (part + i) * 5 - now end
  end
  fits = fits and wait < 0
  reply[at] = string.format('%.0f %.0f', used, wait * 1000)
end
for at, name in ipairs(fits and KEYS or {}) do
  local kept, life, _, amount, of, known = unpack(ARGV, 6 * at - 5, 6 * at)
  local key = name .. ':' .. (of == '' and part or of)
  if kept == '0' and amount == '1' then
    redis.call('ZADD', name, now + life, of)
    redis.call('EXPIRE', name, life)
  elseif kept == '0' then
    redis.call('ZREM', name, of)
  elseif amount ~= '0' then
    local count = (redis.call('GET', key) or known) + amount
    if count > 0 then redis.call('SET', key, count, 'EX', life) else redis.call('DEL', key) end
  end
end
return part .. ' ' .. table.concat(reply, ' ')
"""
"""Takes what one request uses of all of its limits, or nothing if it does not fit one. KEYS are their names.

Each part of a minute has a key, as each date, which expires when it counts no more. The requests in progress are a set
of leases. Each limit has these arguments:

- how many parts count: 13 of a minute, 1 for a date, 0 for leases
- the seconds that the key lasts, the limit, and the amount
- the number of a part ("" for that of the server's clock), the date, or the id of the lease. An amount of 1 takes or
  renews a lease, -1 ends it, 0 reads
- the use of a date that the process knows, else 0: a store that was emptied goes on from it

The reply is the part, and for each limit the use before and the milliseconds until the amount fits, below 0 if it does.
"""


Entry = tuple[str, int, int, int, int, str, int]
"""The name of a limit, and its arguments."""


def command(entries: Sequence[Entry]) -> Command:
    return tuple(one[0] for one in entries), tuple(value for one in entries for value in one[1:])


def read(reply: bytes, entries: Sequence[Entry]) -> tuple[int, list[tuple[int, float]]]:
    """Return the part, and of each limit the use before and the seconds to wait. Raises ValueError."""
    part, *words = reply.decode().split()
    if any(len(word) > MOST_DIGITS for word in (part, *words)):
        raise ValueError("The store replied a number that is too large.")
    pairs = zip(entries, words[::2], words[1::2], strict=True)
    return int(part), [(int(used), int(wait_ms) / 1000) for _, used, wait_ms in pairs]
