# syntax=docker/dockerfile:1
# The controller: reads the registry, judges, moves traffic. No torch.
# The same install commands as the Makefile: the extra `controller`, everything pinned by constraints.txt.
#   docker build -f docker/controller.Dockerfile -t shipway-controller .

FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
RUN python -m pip install --no-cache-dir --no-compile -c constraints.txt uv \
 && python -m venv --without-pip /opt/shipway
COPY registry ./registry
COPY pipelines ./pipelines
COPY deploy_targets ./deploy_targets
RUN uv pip install --no-cache --compile-bytecode --python /opt/shipway/bin/python -c constraints.txt ".[controller]"

FROM python:3.11-slim-bookworm
# git carries the manifests of endpoints that Argo CD or Flux applies. Unpinned: Debian keeps only its newest build.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates git \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --create-home --shell /usr/sbin/nologin shipway
COPY --from=build /opt/shipway /opt/shipway
ENV PATH=/opt/shipway/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    GIT_PYTHON_REFRESH=quiet \
    MPLCONFIGDIR=/tmp/matplotlib \
    SHIPWAY_CONTROLLER_PORT=8090
USER 10001:10001
WORKDIR /home/shipway
EXPOSE 8090
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8090/healthz', timeout=2)"]
# Still to be given: the endpoint file, mounted at this path, and the registry's address and credentials.
ENTRYPOINT ["shipway", "controller", "-f", "/etc/shipway/endpoints.yaml"]
