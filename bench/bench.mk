# Included by the Makefile. Generated files are in .e2e/bench.
.PHONY: bench bench-amplification bench-quick bench-profile bench-curves bench-soak bench-transforms bench-bodies bench-inspector bench-scrape bench-queue bench-limits bench-store-limits bench-replicas bench-tracing bench-tls

bench: setup ## Measure gatepass against nginx, FastAPI + httpx, openai-forward, Portkey, LiteLLM; writes docs/benchmarks.md
	$(BIN)/python -m bench $(BENCH)

bench-quick: setup ## Core workloads, no network, 4 minutes; BENCH="--against REF" compares with older code in 7
	$(BIN)/python -m bench --quick $(BENCH)

bench-profile: setup ## CPU time of a small chat and of a relayed event, by part
	$(BIN)/python -m bench.profile

bench-curves: setup ## Cost by number of streams and size of bodies, against nginx
	$(BIN)/python -m bench.curves

bench-bodies: setup ## Large bodies, replies and events: CPU against msgspec, lateness of a timer, memory, verdict
	$(BIN)/python -m bench.bodies

bench-amplification: setup ## Requests at failing upstreams for each request of a client, beside LiteLLM, verdict
	$(BIN)/python -m bench.amplification

bench-soak: setup ## Ten minutes of load: memory and file descriptors must stay flat
	$(BIN)/python -m bench.soak

bench-transforms: setup ## CPU time of a synthesized, aggregated or repaired event, without sockets
	$(BIN)/python -m bench.transforms

bench-inspector: setup ## CPU time of the request inspector for one read of a stream, verdict
	$(BIN)/python -m bench.inspector

bench-scrape: setup ## CPU time of a scrape with as many series as gatepass keeps, verdict
	$(BIN)/python -m bench.scrape

bench-queue: setup ## How long chats wait beside 500 queued embeddings, with and without max_in_flight; BENCH="--source DIR" for older code
	$(BIN)/python -m bench.fair_waiting $(BENCH)

bench-limits: setup ## CPU time of limits of use for one request, verdict
	$(BIN)/python -m bench.limits

bench-store-limits: setup ## 1,000 requests a second against limits of 1, 2 and 4 processes on a real server for a minute each, verdict
	$(BIN)/python -m bench.store_limits $(SECONDS_EACH)

bench-replicas: setup ## Token calls and round trips to a real store by 1, 2, 4 and 8 replicas, and computed for more; 5 minutes
	$(BIN)/python -m bench.replicas

bench-tracing: setup ## Cost of tracing for a chat, not configured, not sampled and sampled, beside the bare SDK, verdict; three minutes
	$(BIN)/python -m bench.tracing $(BENCH)

bench-tls: setup ## Instructions that TLS of the listener adds, beside a bare uvloop echo with TLS, verdict; requires valgrind
	$(BIN)/python -m bench.tls
