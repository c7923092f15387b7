"""The faults, by the part of the runtime that they are in; importing this registers them."""

from agentsys.benchmarks.ifc.attacks.faults import delivering, gateway, peers, recording, vouching
from agentsys.benchmarks.ifc.attacks.weakenings import WEAKENINGS

__all__ = ["WEAKENINGS", "delivering", "gateway", "peers", "recording", "vouching"]
