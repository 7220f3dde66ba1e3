"""Shipped fakes: a network in memory, endpoints that misbehave, and a simulator that runs the very
objects that serve in virtual time. For the project's own tests and for those of its users.
"""

from gatewayd.testing.actors import Behaviour, SimEndpoint
from gatewayd.testing.memory import MemoryDialer, MemoryTransport
from gatewayd.testing.report import Report
from gatewayd.testing.simulator import Simulator

__all__ = ["Behaviour", "MemoryDialer", "MemoryTransport", "Report", "SimEndpoint", "Simulator"]
