"""The performance rig: gatepass against nginx, a naive forwarder and other LLM gateways, in one run.

`python -m bench` from the root of the repository; bench/README.md describes the method.
"""
