"""Learn from an upstream's rejections which changes its models require.

`session.LearningSession` is the entry point of the request path. `rejection` parses an error, `matchers` suggests rules
for it, `memory` stores them until they expire, and `learned_rule` exports them as configuration.
The package does no I/O. It must not import proxy, server or http_client.
"""
