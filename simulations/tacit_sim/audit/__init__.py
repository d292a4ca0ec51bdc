"""Privacy measured: a lower bound on epsilon from one run with canaries, beside the epsilon that the run claims."""

from __future__ import annotations

from tacit_sim.audit.report import plain, text, write, write_json
from tacit_sim.audit.run import Audit, audit
from tacit_sim.audit.trainer import FAULTS

__all__ = ["FAULTS", "Audit", "audit", "plain", "text", "write", "write_json"]
