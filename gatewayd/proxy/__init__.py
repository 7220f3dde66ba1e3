"""Floor 4: the way of a request, from the listener to the answer."""

from gatewayd.proxy.forward import Forwarding, ReverseProxyResource

__all__ = ["Forwarding", "ReverseProxyResource"]
