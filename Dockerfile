# The one image of CacheCluster: operator, sidecar, both engines and s6. Runs as a user without rights, on a read-only root.
#
# With Docker:   docker build -t cachecluster .
# Without:       devcluster image     (buildah; bases made from Debian packages and installed wheels take the place of
#                the official images, by the build arguments BASE, DEPENDENCIES, PROJECT, VALKEY and REDIS)
#
# The official image of Valkey is made on Debian 13, so its program needs a base that is at least as new.
ARG PYTHON=python:3.11-slim-trixie
ARG BUILDER=python:3.11-trixie
ARG VALKEY=valkey/valkey:9.1.2
ARG REDIS=redis:7.2-bookworm
# Each of these three is a stage below or an image that holds the same.
ARG BASE=debian-packages
ARG DEPENDENCIES=pip-dependencies
ARG PROJECT=pip-project

FROM ${PYTHON} AS debian-packages
RUN apt-get update \
    && apt-get install -y --no-install-recommends s6 \
    && rm -rf /var/lib/apt/lists/*

FROM ${BUILDER} AS pip-dependencies
COPY requirements-image.lock /src/
RUN pip install --no-cache-dir --no-compile --no-deps --require-hashes --target /opt/cachecluster/lib -r /src/requirements-image.lock \
    && rm -rf /opt/cachecluster/lib/bin \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /opt/cachecluster/lib

FROM ${BUILDER} AS pip-project
COPY pyproject.toml setup.py README.md LICENSE /src/
COPY core/ /src/core/
COPY operator/ /src/operator/
COPY sidecar/ /src/sidecar/
COPY local/ /src/local/
COPY devcluster/ /src/devcluster/
RUN pip install --no-cache-dir --no-compile --no-deps --target /opt/cachecluster/lib /src \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /opt/cachecluster/lib

FROM ${VALKEY} AS valkey
FROM ${REDIS} AS redis
FROM ${DEPENDENCIES} AS dependencies
FROM ${PROJECT} AS project

FROM ${BASE}
ENV PATH=/opt/cachecluster/lib/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONPATH=/opt/cachecluster/lib \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    LANG=C.UTF-8
WORKDIR /
CMD ["cachecluster-operator", "--help"]
RUN echo 'cachecluster:x:10001:10001::/nonexistent:/usr/sbin/nologin' >>/etc/passwd \
    && echo 'cachecluster:x:10001:' >>/etc/group
COPY --from=valkey /usr/local/bin/valkey-server /usr/local/bin/
COPY --from=redis /usr/local/bin/redis-server /usr/local/bin/redis-cli /usr/local/bin/
COPY --from=dependencies /opt/cachecluster/ /opt/cachecluster/
# Last, and alone: the layer that changes with every edit.
COPY --from=project /opt/cachecluster/ /opt/cachecluster/
USER 10001:10001
