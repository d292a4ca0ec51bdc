"""A block: several steps of secure aggregation whose keys and shares travel at once.

Stages 0 and 1 of all steps are exchanged together. A step then takes two exchanges where every partner answers, the
masked vector and `Complete`, and the three of a round where somebody does not. The graph is complete. The argument
stands in `spec/secagg.md`, "A block of steps".
"""

from tacit.secagg.block.client import advertise, open_shares, share, step
from tacit.secagg.block.server import BlockAdmitted, Routed, admit, begin, complete, route
from tacit.secagg.block.states import Block, BlockAdvertised, BlockShared
from tacit.secagg.complete import reveal

__all__ = [
    "Block",
    "BlockAdmitted",
    "BlockAdvertised",
    "BlockShared",
    "Routed",
    "admit",
    "advertise",
    "begin",
    "complete",
    "open_shares",
    "reveal",
    "route",
    "share",
    "step",
]
