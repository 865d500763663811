"""Try what an upstream's refusals point at, and keep what its models then accept, for the caller who taught it.

`session.LearningSession` is the entry point of the request path. `pointing` reads a refusal, and `quotes` what it
repeats of the request. `rows` has the changes to try, and `meaning` what none may leave out. `memory` stores what
helped until it expires, and `learned_rule` exports it.
The package does no I/O. It must not import proxy, server or http_client.
"""
