# The API, and `finlora migrate`. No torch: nothing here trains.
# Build it from the repository root: docker build -f docker/api.Dockerfile -t finlora-api .

FROM ghcr.io/astral-sh/uv:0.13.9 AS uv

# the Python that constraints.txt was tested with
FROM python:3.11-slim-bookworm AS build
COPY --from=uv /uv /usr/local/bin/uv
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
WORKDIR /src
COPY pyproject.toml constraints.txt ./
# what the project needs, in a layer of its own: a change of our code keeps it
RUN --mount=type=cache,target=/root/.cache/uv \
    uv venv /opt/finlora \
    && uv pip install --python /opt/finlora --constraint constraints.txt --requirement pyproject.toml
COPY README.md LICENSE ./
COPY api ./api
COPY finlora_core ./finlora_core
COPY migrations ./migrations
COPY worker ./worker
RUN --mount=type=cache,target=/root/.cache/uv \
    uv pip install --python /opt/finlora --build-constraint constraints.txt --no-deps .

FROM python:3.11-slim-bookworm
# the owner of what the containers write into folders of the host; see docs/operations.md
ARG APP_UID=1000
RUN groupadd --gid "$APP_UID" finlora \
    && useradd --uid "$APP_UID" --gid finlora --create-home finlora \
    && install --directory --owner finlora --group finlora /data
COPY --from=build /opt/finlora /opt/finlora
ENV PATH=/opt/finlora/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    FINLORA_HOME=/data \
    FINLORA_HOST=0.0.0.0
# `python -m` puts the working directory on Python's path: one that nobody here can write to
WORKDIR /opt/finlora
USER finlora
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
CMD ["python", "-m", "api.server"]
