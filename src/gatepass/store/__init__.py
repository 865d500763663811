"""State that processes share: values that expire, counters and leases, in Valkey or Redis.

`guarded.open_store` returns the store of a configuration. `base` has the contract (`Store`), `StoreCache` and `Lease`.
`valkey` and `encrypted` need optional dependencies, so only `open_store` imports them, and only if they are used.
The package must not import `tokens`, `proxy` or `server`: it stores bytes and does not know their meaning.
"""
