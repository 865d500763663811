# Included by the Makefile. Everything the rig makes lies in .e2e/bench.
.PHONY: bench bench-quick bench-profile bench-curves bench-workers bench-soak bench-transforms

bench: setup ## Measure gatepass against nginx, FastAPI + httpx, openai-forward, LiteLLM; writes docs/benchmarks.md
	$(BIN)/python -m bench $(BENCH)

bench-quick: setup ## Core workloads, no network, 4 minutes; BENCH="--against REF" compares with older code in 7
	$(BIN)/python -m bench --quick $(BENCH)

bench-profile: setup ## Where each microsecond of a small chat and of a relayed event goes
	$(BIN)/python -m bench.profile

bench-curves: setup ## How costs grow with streams and with bodies, against nginx
	$(BIN)/python -m bench.curves

bench-soak: setup ## Ten minutes of load: memory and file descriptors have to stay flat
	$(BIN)/python -m bench.soak

bench-workers: setup ## How throughput grows from one worker to two
	$(BIN)/python -m bench.workers

bench-transforms: setup ## What an event costs that is made, joined or repaired, without sockets
	$(BIN)/python -m bench.transforms
