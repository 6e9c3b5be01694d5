# A training worker for one GPU or several. Needs an NVIDIA driver for CUDA 13 on the host (580 or newer).
# Build it from the repository root: docker build -f docker/worker.Dockerfile -t finlora-worker .

FROM ghcr.io/astral-sh/uv:0.13.9 AS uv

FROM nvidia/cuda:13.0.1-runtime-ubuntu24.04 AS base
# Triton compiles launchers for its kernels while training runs: it needs a C compiler
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

FROM base AS build
COPY --from=uv /uv /usr/local/bin/uv
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_INSTALL_DIR=/opt/python
WORKDIR /src
COPY pyproject.toml constraints.txt ./
# The Python that constraints.txt was tested with; Ubuntu has another. It comes with the C
# headers that Triton's launchers include.
# What the project needs is a layer of its own, several GB: a change of our code keeps it.
RUN --mount=type=cache,target=/root/.cache/uv \
    uv python install 3.11 \
    && uv venv --python 3.11 --managed-python /opt/finlora \
    && uv pip install --python /opt/finlora --constraint constraints.txt \
        --requirement pyproject.toml --extra train --extra deepspeed
COPY README.md LICENSE ./
COPY api ./api
COPY finlora_core ./finlora_core
COPY migrations ./migrations
COPY worker ./worker
RUN --mount=type=cache,target=/root/.cache/uv \
    uv pip install --python /opt/finlora --build-constraint constraints.txt --no-deps .

FROM base
# the owner of what the containers write into folders of the host; see docs/operations.md
ARG APP_UID=1000
# Ubuntu's image has a user 1000 of its own, whom nobody needs
RUN userdel --remove ubuntu \
    && groupadd --gid "$APP_UID" finlora \
    && useradd --uid "$APP_UID" --gid finlora --create-home finlora \
    && install --directory --owner finlora --group finlora /data
COPY --from=build /opt/python /opt/python
COPY --from=build /opt/finlora /opt/finlora
ENV PATH=/opt/finlora/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    FINLORA_HOME=/data
# celery puts the working directory on Python's path: one that no training can write to
WORKDIR /opt/finlora
USER finlora
HEALTHCHECK --interval=60s --timeout=30s --start-period=60s --retries=3 \
    CMD celery -A worker.celery_app inspect ping -d "celery@$HOSTNAME"
CMD ["celery", "-A", "worker.celery_app", "worker", "--loglevel", "INFO"]
