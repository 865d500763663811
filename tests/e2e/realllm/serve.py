"""Serve one GGUF with llama.cpp's own OpenAI server on a free loopback port until a signal ends it."""

from __future__ import annotations

import argparse
import signal
import threading
from pathlib import Path

import xllamacpp  # type: ignore[import-not-found]  # lives in .e2e/models

SLOTS, CONTEXT_TOKENS = 4, 8192  # llama.cpp shares the context out: 2048 tokens per slot


def parameters(model: str, embeddings: bool) -> xllamacpp.CommonParams:
    params = xllamacpp.CommonParams()
    params.model.path, params.model_alias = model, {Path(model).stem}
    params.hostnames, params.port = ["127.0.0.1"], 0
    params.n_ctx, params.n_parallel, params.warmup = CONTEXT_TOKENS, SLOTS, False
    params.cpuparams.n_threads = 1
    if embeddings:
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    return params


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--embeddings", action="store_true")
    options = parser.parse_args()

    stop = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    server = xllamacpp.Server(parameters(options.model, options.embeddings))
    print("listening on", server.listening_address, flush=True)
    stop.wait()


if __name__ == "__main__":
    main()
