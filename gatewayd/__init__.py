"""gatewayd: an event-driven reverse proxy and API gateway on Twisted."""

__version__ = "0.1.0"
