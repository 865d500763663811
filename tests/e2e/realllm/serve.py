"""Serve one GGUF with llama.cpp's own OpenAI server on a free loopback port until a signal ends it."""

import argparse
import signal
import threading
from pathlib import Path

import xllamacpp  # type: ignore[import-not-found]  # lives in .e2e/models

SLOTS, SLOT_TOKENS = 4, 2048


def parameters(options: argparse.Namespace) -> xllamacpp.CommonParams:
    params = xllamacpp.CommonParams()
    params.model.path, params.model_alias = options.model, {Path(options.model).stem}
    params.hostnames, params.port = ["127.0.0.1"], 0
    params.n_ctx, params.n_parallel, params.warmup = options.slots * options.slot_tokens, options.slots, False
    params.n_predict = options.answer_tokens
    params.cpuparams.n_threads = 1
    if options.embeddings:
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    return params


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--embeddings", action="store_true")
    parser.add_argument("--slots", type=int, default=SLOTS, help="the requests that are served at once")
    parser.add_argument("--slot-tokens", type=int, default=SLOT_TOKENS, help="the context of each slot")
    parser.add_argument("--answer-tokens", type=int, default=-1, help="for requests that set no limit")
    options = parser.parse_args()

    stop = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    server = xllamacpp.Server(parameters(options))
    print("listening on", server.listening_address, flush=True)
    stop.wait()


if __name__ == "__main__":
    main()
