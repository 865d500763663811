"""Serve a client protocol by chat completions, for upstreams that have nothing else.

A `Translation` turns the client's request into the body of a chat, and the chat's answer into the client's reply or
events. All of it is pure: values in, values out.
"""
