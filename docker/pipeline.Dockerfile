# syntax=docker/dockerfile:1
# The pipeline: download, quantize, evaluate, version, each an entry point of the MLflow project.
# The same install commands as the Makefile: the extra `pipeline`, everything pinned by constraints.txt.
#   docker build -f docker/pipeline.Dockerfile -t shipway-pipeline .

FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
RUN python -m pip install --no-cache-dir --no-compile -c constraints.txt uv \
 && python -m venv --without-pip /opt/shipway
COPY registry ./registry
COPY pipelines ./pipelines
COPY deploy_targets ./deploy_targets
RUN uv pip install --no-cache --compile-bytecode --python /opt/shipway/bin/python -c constraints.txt ".[pipeline]"

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --create-home --shell /usr/sbin/nologin shipway
COPY --from=build /opt/shipway /opt/shipway
WORKDIR /home/shipway/project
COPY MLproject python_env.yaml ./
COPY recipes ./recipes
ENV PATH=/opt/shipway/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    GIT_PYTHON_REFRESH=quiet \
    MPLCONFIGDIR=/tmp/matplotlib \
    SHIPWAY_HOME=/home/shipway/state
USER 10001:10001
# A job: it ends by itself, and its exit code says how.
HEALTHCHECK NONE
# Still to be given: MLflow's and S3's addresses and credentials, and the parameters: -P source=… -P name=… -P recipe=…
ENTRYPOINT ["mlflow", "run", ".", "--env-manager", "local"]
CMD ["-e", "release"]
