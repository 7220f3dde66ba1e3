"""Packaging. Plugins need it spelled out: find_packages() leaves twisted/plugins out silently."""

from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
VERSION = {}
exec((HERE / "gatewayd" / "__init__.py").read_text(), VERSION)

setup(
    name="gatewayd",
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
            "ruff>=0.6",
            "import-linter>=2.0",
            "types-PyYAML",
            "build>=0.10",
        ],
    },
    entry_points={"console_scripts": ["gatewayd = gatewayd.cli:run"]},
)
