# Build: docker build -t gatepass:local .     Behind a proxy, a CA or a mirror: docs/container.md
# With extras: --build-arg EXTRAS=crypto,valkey (otel and otel-grpc too)
# Plain Dockerfile on purpose (no heredocs, no COPY --link): older buildah and kaniko build it too.
# The workflow image.yml resolves the digest of the base and builds with BASE=NAME@DIGEST. No digest stands here.
ARG BASE=docker.io/library/python:3.13-slim

FROM ${BASE} AS build
ARG PIP_INDEX_URL
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
COPY requirements/ requirements/
RUN python -m venv backend \
 && python -m venv --without-pip /app \
 && backend/bin/pip install --no-deps --require-hashes --only-binary :all: -r requirements/build.txt \
 && backend/bin/pip --python /app/bin/python install --no-compile --no-deps --require-hashes --only-binary :all: -r requirements/runtime.txt
ARG EXTRAS=
RUN for extra in $(echo "$EXTRAS" | tr ',' ' '); do \
      backend/bin/pip --python /app/bin/python install --no-compile --no-deps --require-hashes --only-binary :all: \
        -r "requirements/extra-$extra.txt" || exit 1; \
    done
COPY LICENSE README.md pyproject.toml ./
COPY release/package_metadata.py release/
COPY src src
# Bytecode that no timestamp can outdate: the root is read-only at run time, so a stale file would be compiled at every start.
RUN backend/bin/pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
 && backend/bin/pip --python /app/bin/python install --no-compile --no-index --no-deps dist/*.whl \
 && /app/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /app/lib

FROM ${BASE}
LABEL org.opencontainers.image.title="gatepass" \
      org.opencontainers.image.description="One URL that keeps working, for clients with a static key, in front of an LLM gateway with short-lived tokens" \
      org.opencontainers.image.licenses="Apache-2.0"
# The official base ships the standard library without its bytecode; see above.
RUN python -m compileall -q -j 0 --invalidation-mode unchecked-hash \
      -x '/(__pycache__|dist-packages|ensurepip|idlelib|pydoc_data|site-packages|test|tkinter|turtledemo)/' \
      "$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"
COPY --from=build /app /app
# Listening on every address wants keys: without GATEPASS_KEYS, GATEPASS_KEY_HASHES or access.keys it ends with exit code 2.
ENV PATH=/app/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    GATEPASS_HOST=0.0.0.0 \
    GATEPASS_PORT=8080
# Any other uid does as well: nothing is written, and all is readable by everyone.
USER 65532:0
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=10s --retries=3 CMD ["gatepass", "healthcheck"]
ENTRYPOINT ["gatepass"]
CMD ["serve"]
