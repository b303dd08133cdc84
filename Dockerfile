# syntax=docker/dockerfile:1
# One image for the endpoint, the worker and the one-shot commands: `tracker serve`, `tracker worker`, `tracker topics create`.

FROM python:3.12.12-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/tracker
ENV PATH=/opt/tracker/bin:$PATH
WORKDIR /src
# Dependencies first: they change less often than the code. Only what the lock files pin, by hash.
COPY requirements/build.txt requirements/runtime.txt requirements/
RUN pip install --require-hashes -r requirements/build.txt \
 && pip install --require-hashes --no-build-isolation -r requirements/runtime.txt
COPY pyproject.toml README.md LICENSE ./
COPY tracker tracker
COPY stream stream
RUN pip install --no-deps --no-build-isolation . \
 && pip uninstall --yes setuptools pip

FROM python:3.12.12-slim-bookworm
LABEL org.opencontainers.image.title="event-streaming-tracker" \
      org.opencontainers.image.licenses="Apache-2.0"
# Events that Kafka does not take wait there: mount a volume. A new one takes the owner of the folder it is mounted on.
# All else may be read-only.
RUN useradd --system --uid 10001 --user-group --no-create-home --home-dir /nonexistent tracker \
 && install -d -o tracker -g tracker /var/lib/tracker/spool
COPY --from=build /opt/tracker /opt/tracker
ENV PATH=/opt/tracker/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    TRACKER_HTTP_HOST=0.0.0.0 \
    TRACKER_WORKER_HOST=0.0.0.0 \
    TRACKER_SPOOL_DIR=/var/lib/tracker/spool \
    HEALTH_URL=http://127.0.0.1:8080/readyz
USER 10001:10001
EXPOSE 8080 8081
# urlopen raises, and the check fails, on everything but a 2xx.
HEALTHCHECK --interval=5s --timeout=4s --start-period=60s --retries=6 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(os.environ['HEALTH_URL'], timeout=3)"]
ENTRYPOINT ["tracker"]
CMD ["serve"]
