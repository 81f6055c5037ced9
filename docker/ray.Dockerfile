# syntax=docker/dockerfile:1
# The pipeline on Ray: the image of a Ray cluster that runs stages as jobs, for KubeRay's head and workers alike.
# The same install commands as the Makefile: the extra `ray`, everything pinned by constraints.txt.
#   docker build -f docker/ray.Dockerfile -t shipway-ray .

FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
RUN python -m pip install --no-cache-dir --no-compile -c constraints.txt uv \
 && python -m venv --without-pip /opt/shipway
COPY registry ./registry
COPY pipelines ./pipelines
COPY deploy_targets ./deploy_targets
RUN uv pip install --no-cache --compile-bytecode --python /opt/shipway/bin/python -c constraints.txt ".[ray]"

FROM python:3.11-slim-bookworm
# KubeRay's own probes call wget. Unpinned on purpose: Debian keeps only its newest build.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends wget \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --create-home --shell /bin/bash shipway
COPY --from=build /opt/shipway /opt/shipway
WORKDIR /home/shipway/project
COPY MLproject python_env.yaml ./
COPY recipes ./recipes
ENV PATH=/opt/shipway/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    GIT_PYTHON_REFRESH=quiet \
    MPLCONFIGDIR=/tmp/matplotlib \
    SHIPWAY_HOME=/home/shipway/state
USER 10001:10001
EXPOSE 8265
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=6 \
  CMD ["ray", "health-check"]
# One node without Kubernetes; KubeRay gives a command of its own. Still to be given: S3's credentials, and MLflow's where it
# asks for some; addresses come with each job.
CMD ["ray", "start", "--head", "--block", "--disable-usage-stats", "--dashboard-host=127.0.0.1"]
