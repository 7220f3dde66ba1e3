"""Packaging. Plugins need it spelled out: find_packages() leaves twisted/plugins out silently."""

import os
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
VERSION = {}
exec((HERE / "gatewayd" / "__init__.py").read_text(), VERSION)

# What every request passes through; the same source, compiled where `make build-optimized` asks for it.
# Left as they are: classes that others derive from (balancers), and rooms off the way.
HOT = [
    "gatewayd/accesslog.py",
    "gatewayd/core/breaker.py",
    "gatewayd/core/counters.py",
    "gatewayd/core/deadlines.py",
    "gatewayd/core/endpoints.py",
    "gatewayd/core/exchange.py",
    "gatewayd/core/forwarded.py",
    "gatewayd/core/health.py",
    "gatewayd/core/limits.py",
    "gatewayd/core/messages.py",
    "gatewayd/core/pooling.py",
    "gatewayd/core/retries.py",
    "gatewayd/core/routes.py",
    "gatewayd/core/slices.py",
    "gatewayd/core/targets.py",
    "gatewayd/core/tracing.py",
    "gatewayd/http1/bodies.py",
    "gatewayd/http1/grammar.py",
    "gatewayd/http1/requests.py",
    "gatewayd/http1/responses.py",
    "gatewayd/http1/serialising.py",
    "gatewayd/net/splice.py",
    "gatewayd/net/wire.py",
    "gatewayd/proxy/answers.py",
    "gatewayd/proxy/channel.py",
    "gatewayd/proxy/context.py",
    "gatewayd/proxy/filters.py",
    "gatewayd/proxy/forward.py",
    "gatewayd/proxy/resource.py",
    "gatewayd/proxy/terms.py",
    "gatewayd/proxy/tunnel.py",
    "gatewayd/proxy/way.py",
    "gatewayd/upstreams/connection.py",
    "gatewayd/upstreams/pool.py",
    "gatewayd/upstreams/upstream.py",
]


def compiled():
    """Extension modules of the hot rooms, if GATEWAYD_COMPILE=1 is set."""
    if os.environ.get("GATEWAYD_COMPILE") != "1":
        return []
    from mypyc.build import mypycify

    # Debian compiles with an older mypy, whose judgement of types is not asked for.
    config = os.environ.get("GATEWAYD_MYPY_CONFIG", "pyproject.toml")
    return mypycify([f"--config-file={config}", *HOT], opt_level="3")


setup(
    name="gatewayd",
    ext_modules=compiled(),
    version=VERSION["__version__"],
    description="An event-driven reverse proxy and API gateway on Twisted",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11",
    # An explicit root gives editable installs a plain .pth, so that twistd finds the plugin there.
    package_dir={"": "."},
    packages=[
        "gatewayd",
        "gatewayd.admin",
        "gatewayd.config",
        "gatewayd.core",
        "gatewayd.discovery",
        "gatewayd.http1",
        "gatewayd.net",
        "gatewayd.proxy",
        "gatewayd.testing",
        "gatewayd.upstreams",
        "gatewayd.workers",
        "twisted.plugins",
    ],
    package_data={"gatewayd": ["py.typed", "demo.yaml"]},
    install_requires=[
        "twisted>=22.4",
        "treq>=22.2",
        "pyopenssl>=23.0",
        "service-identity>=18.1",
        "prometheus-client>=0.16",
        "kazoo>=2.8",
        "PyYAML>=6.0",
        "zope.interface>=5.5",
    ],
    extras_require={
        "test": [
            "pytest>=7.2",
            "pytest-twisted>=1.13",
            "hypothesis>=6.67",
            "coverage>=6.5",
            "mypy>=1.11",
            "setuptools",  # with wheel, for build-optimized
            "wheel",
            "ruff>=0.6",
            "import-linter>=2.0",
            "types-PyYAML",
            "jsonschema>=4.10",
            "build>=0.10",
        ],
    },
    entry_points={"console_scripts": ["gatewayd = gatewayd.cli:run"]},
)
