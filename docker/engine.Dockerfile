# syntax=docker/dockerfile:1
# The engine: Ray with the Serve application of one revision; KubeRay starts its head and workers from it.
# The same install commands as the Makefile: the extra `engine`, everything pinned by constraints.txt.
#   docker build -f docker/engine.Dockerfile -t shipway-engine .

FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
RUN python -m pip install --no-cache-dir --no-compile -c constraints.txt uv \
 && python -m venv --without-pip /opt/shipway
COPY registry ./registry
COPY pipelines ./pipelines
COPY deploy_targets ./deploy_targets
RUN uv pip install --no-cache --compile-bytecode --python /opt/shipway/bin/python -c constraints.txt ".[engine]"

FROM python:3.11-slim-bookworm
# KubeRay's own probes call wget. Unpinned on purpose: Debian keeps only its newest build.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends wget \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --create-home --shell /bin/bash shipway
COPY --from=build /opt/shipway /opt/shipway
ENV PATH=/opt/shipway/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    OMP_NUM_THREADS=1 \
    SHIPWAY_HOME=/home/shipway/state
USER 10001:10001
WORKDIR /home/shipway
EXPOSE 8000 8265
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=6 \
  CMD ["wget", "--quiet", "--tries=1", "--timeout=2", "--output-document=/dev/null", "http://127.0.0.1:8000/-/healthz"]
# One replica without Kubernetes; KubeRay gives a command of its own. Still to be given: S3's address and credentials.
CMD ["ray", "start", "--head", "--block", "--disable-usage-stats", "--dashboard-host=127.0.0.1"]
