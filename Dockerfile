# The server as an image, for CPUs (target "cpu", the default) or NVIDIA GPUs (target "cuda"), or with Ray for workers that
# encode (target "ray", for CPUs). scripts/image builds it and checks what was built; docs/docker.md says how it is run.
ARG BASE=docker.io/library/python:3.11-slim-bookworm

# What all stages stand on: Python with its bytecode (nothing can be written later), tini, the user, and no file that others
# may write or that runs with another's rights.
# hadolint ignore=DL3006
FROM ${BASE} AS base
ARG SOURCE_DATE_EPOCH=0
# tini comes from Debian, whose stable releases change it for security alone.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini \
    && groupadd --gid 10001 sam \
    && useradd --uid 10001 --gid 10001 --home-dir /data/cache --no-create-home --shell /usr/sbin/nologin sam \
    && mkdir -m 0755 /data \
    && install -d -o sam -g sam -m 0700 /data/studies /data/labels /data/results /data/embeddings /data/model \
        /data/audit /data/keys /data/dicomweb /data/cache \
    && python3 -m compileall -q -f -j 0 --invalidation-mode unchecked-hash -x '/(test|tests|idlelib|lib2to3|site-packages)/' \
        "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" \
    && rm -rf /var/lib/apt/lists/* /var/log/* /var/cache/ldconfig/aux-cache /var/cache/debconf/*-old \
    && find / -xdev -type f -perm /6000 -exec chmod a-s {} + \
    && find / -xdev ! -type l ! -perm -1000 -perm /022 -exec chmod go-w {} +
WORKDIR /opt/sam-app

# The packages of the lock. Only these stages reach a package index; they trust whom the base trusts, as an institution's own
# certificate authority that was added to it.
FROM base AS lock
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt \
    PIP_CERT=/etc/ssl/certs/ca-certificates.crt
COPY requirements.txt requirements.hashes requirements.sizes ./
COPY scripts/setup scripts/
COPY apps/sam_app/site apps/sam_app/site

FROM lock AS packages-cpu
# Where PyTorch is taken from, as scripts/setup knows it: "cpu" is PyTorch's own index, nothing is the lock.
ARG TORCH_INDEX=cpu
RUN --mount=type=cache,target=/root/.cache/uv \
    TORCH_INDEX=${TORCH_INDEX:-lock} UV_LINK_MODE=copy scripts/setup --require-hashes

FROM lock AS packages-cuda
RUN --mount=type=cache,target=/root/.cache/uv \
    TORCH_INDEX=lock UV_LINK_MODE=copy scripts/setup --require-hashes

# Ray beside them, in the lock's versions; requirements.hashes has none of its packages.
FROM packages-cpu AS packages-ray
COPY requirements-ray.txt ./
RUN --mount=type=cache,target=/root/.cache/uv \
    UV_LINK_MODE=copy scripts/setup --ray

# The app, without what no server uses: the bundled model in OpenVINO's form, bytecode, and the list of what is in it.
FROM packages-cpu AS app-cpu
ARG SOURCE_DATE_EPOCH=0
COPY . .
RUN .venv/bin/python scripts/image_build.py cpu

FROM packages-cuda AS app-cuda
ARG SOURCE_DATE_EPOCH=0
COPY . .
RUN .venv/bin/python scripts/image_build.py cuda

FROM packages-ray AS app-ray
ARG SOURCE_DATE_EPOCH=0
COPY . .
RUN .venv/bin/python scripts/image_build.py cpu

# How it is run.
FROM base AS image
ARG VERSION=unknown
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="SAM app for MONAI Label" \
    org.opencontainers.image.description="Interactive segmentation of medical images with Segment Anything: REST, OHIF, 3D Slicer" \
    org.opencontainers.image.licenses="MIT" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.created="${CREATED}"
ENV HOME=/data/cache \
    MONAI_LABEL_SESSION_PATH=/data/cache/sessions \
    MONAI_LABEL_DICOMWEB_CACHE_PATH=/data/dicomweb
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=10s --start-period=120s --retries=3 \
    CMD ["/opt/sam-app/.venv/bin/python", "-I", "/opt/sam-app/scripts/health.py", "http://127.0.0.1:8000"]
ENTRYPOINT ["/usr/bin/tini", "--", "/opt/sam-app/scripts/image-entry"]

FROM image AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=app-cuda /opt/sam-app /opt/sam-app
USER 10001:10001
VOLUME ["/data"]

# KubeRay calls ray by its name, in a shell that may have Debian's PATH alone.
FROM image AS ray
RUN ln -s /opt/sam-app/.venv/bin/ray /opt/sam-app/.venv/bin/serve /usr/local/bin/
ENV PYTHONPATH=/opt/sam-app/apps/sam_app \
    RAY_USAGE_STATS_ENABLED=0
COPY --from=app-ray /opt/sam-app /opt/sam-app
USER 10001:10001
VOLUME ["/data"]

FROM image AS cpu
COPY --from=app-cpu /opt/sam-app /opt/sam-app
USER 10001:10001
VOLUME ["/data"]
