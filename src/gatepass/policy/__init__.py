"""Decide where a request goes and when, and whether it may be repeated: breakers, queues, budgets, choice of a target.

Each module is a state machine without a clock: `now_s` is an argument, in seconds of `Clock.now`. Its state is bounded,
belongs to one process, and outlives a reload. `balancing` chooses a target, `breaker` knows which targets fail,
`fair_queue` which request gets the next place, and `retry_budget` limits repeats. The package does no I/O. It must not
import `proxy`, `learning`, `tokens` or `dialects`.
"""
