"""Attacks on secure aggregation by a lying server or partner, against Tacit's own partners and against Flower's."""

from __future__ import annotations

from tacit_sim.attacks.outcome import Outcome
from tacit_sim.attacks.report import Report, attack
from tacit_sim.attacks.table import ATTACKS

__all__ = ["ATTACKS", "Outcome", "Report", "attack"]
