# gatewayd in a container, compiled where every request passes through.
#
#     docker build --tag gatewayd .
#     docker run --rm -p 2000:2000 gatewayd                  # says that it runs
#     docker run --rm -p 2000:2000 --read-only -v "$PWD/gatewayd.yaml:/etc/gatewayd/gatewayd.yaml:ro" gatewayd
#     docker run --rm -v "$PWD/gatewayd.yaml:/gatewayd.yaml:ro" gatewayd check /gatewayd.yaml
#
# `docker stop --time 40`: by default Docker waits 10 s, and gatewayd drains for drain_timeout, 25 s.

FROM python:3.11-slim-bookworm AS builder

RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /src
COPY . .

# mypyc looks into whatever is imported: so what gatewayd needs is installed first, as a plain one has it.
RUN python -m venv /opt/build \
    && /opt/build/bin/pip install --no-cache-dir --disable-pip-version-check \
        setuptools wheel mypy types-PyYAML . \
    && GATEWAYD_COMPILE=1 /opt/build/bin/pip wheel --no-cache-dir --disable-pip-version-check \
        --no-deps --no-build-isolation --wheel-dir /wheels .

# Without pip: nothing is installed in a container that runs.
RUN python -m venv --without-pip /opt/gatewayd \
    && /opt/build/bin/pip --python /opt/gatewayd/bin/python install --no-cache-dir \
        --disable-pip-version-check /wheels/*.whl


FROM python:3.11-slim-bookworm

COPY --from=builder /opt/gatewayd /opt/gatewayd

ENV PATH=/opt/gatewayd/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1

# A configuration that serves at once; mount your own over it. /var/lib/gatewayd holds the membership's
# journal: mount a volume there if members come from ZooKeeper.
RUN mkdir -p /etc/gatewayd /var/lib/gatewayd \
    && printf '%s\n' \
        'listeners:' \
        '  web:' \
        '    address: 0.0.0.0:2000' \
        'routes:' \
        '  - name: welcome' \
        '    respond:' \
        '      status: 200' \
        '      body: "gatewayd runs; mount your configuration at /etc/gatewayd/gatewayd.yaml\n"' \
        > /etc/gatewayd/gatewayd.yaml \
    && gatewayd check /etc/gatewayd/gatewayd.yaml \
    && chown 65532:65532 /var/lib/gatewayd

# By number, so that Kubernetes can see that it is not root. A port below 1024 wants
# --sysctl net.ipv4.ip_unprivileged_port_start=0, which Docker sets by itself since 20.10.
USER 65532:65532

# The admin interface is on the container's loopback; to reach it from outside, set admin.address to
# 0.0.0.0:9901 with an admin.token.
EXPOSE 2000 9901

# Asks where admin.address is by default; with another, set your own with --health-cmd.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["python", "-c", \
    "from urllib.request import urlopen; urlopen('http://127.0.0.1:9901/healthz', timeout=2)"]

ENTRYPOINT ["gatewayd"]
CMD ["run", "--config", "/etc/gatewayd/gatewayd.yaml"]
