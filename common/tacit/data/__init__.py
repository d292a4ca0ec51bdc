"""From a partner's files to examples in memory, and the share of them kept for evaluation."""

from tacit.data.examples import Examples
from tacit.data.files import read
from tacit.data.splits import holdout, stratified

__all__ = ["Examples", "holdout", "read", "stratified"]
