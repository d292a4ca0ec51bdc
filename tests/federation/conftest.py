"""The helpers beside the partner's own tests make partners' folders here too."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "client"))
