"""Decide where a request goes and when, and whether it is admitted and repeated: limits, breakers, queues, budgets.

Each module is a state machine without a clock: `now_s` is an argument, in seconds of `Clock.now`. Its state is bounded,
belongs to one process, and outlives a reload. `balancing` chooses a target, `breaker` knows which targets fail, and
`retry_budget` limits repeats. `limits` counts what callers and others use. Which request gets the next place of a full
upstream decides `gatepass.fair_queue`. The package must not import `proxy`, `learning`, `tokens` or `dialects`.
"""
