"""gatepass: a plain, stable OpenAI API in front of an LLM gateway that is hard to talk to."""

__version__ = "0.1.0"
