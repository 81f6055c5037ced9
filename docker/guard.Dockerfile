# syntax=docker/dockerfile:1
# The guard: the OpenAI-compatible gateway in front of the split. No MLflow, no torch, no state.
# The same install commands as the Makefile: the extra `guard`, everything pinned by constraints.txt.
#   docker build -f docker/guard.Dockerfile -t shipway-guard .

FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
RUN python -m pip install --no-cache-dir --no-compile -c constraints.txt uv \
 && python -m venv --without-pip /opt/shipway
COPY registry ./registry
COPY pipelines ./pipelines
COPY deploy_targets ./deploy_targets
RUN uv pip install --no-cache --compile-bytecode --python /opt/shipway/bin/python -c constraints.txt ".[guard]"

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin shipway
COPY --from=build /opt/shipway /opt/shipway
ENV PATH=/opt/shipway/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    SHIPWAY_GUARD_HOST=0.0.0.0 \
    SHIPWAY_GUARD_PORT=8080 \
    SHIPWAY_GUARD_ADMIN_PORT=9090
USER 10001:10001
WORKDIR /tmp
EXPOSE 8080 9090
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:9090/healthz', timeout=2)"]
# Still to be given: SHIPWAY_GUARD_ENDPOINT, SHIPWAY_GUARD_UPSTREAM_URL, and the keys file, mounted from a secret.
ENTRYPOINT ["python", "-m", "deploy_targets.guard"]
