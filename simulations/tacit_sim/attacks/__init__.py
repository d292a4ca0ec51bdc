"""Attacks by a lying server or partner on secure aggregation, Tacit's and Flower's, and on what is learnt."""

from __future__ import annotations

from tacit_sim.attacks.outcome import Outcome
from tacit_sim.attacks.report import Report, attack
from tacit_sim.attacks.table import ATTACKS

__all__ = ["ATTACKS", "Outcome", "Report", "attack"]
