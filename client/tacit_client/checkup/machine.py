"""What this machine computes with."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from tacit_client.checkup.finding import Said
from tacit_client.site import Folder
from tacit_client.train import pick_device

__all__ = ["device", "memory"]

_LITTLE = 2**30  # bytes; torch and a small network take about half of it
_MEMINFO = Path("/proc/meminfo")


def device(folder: Folder) -> Said[torch.device]:
    """The device of site.toml. Raises BadInput where this machine has none such."""
    found = pick_device(folder.config.device)
    if found.type != "cuda":
        return Said(f"{found}, as device = {folder.config.device!r} says", found)
    free, whole = torch.cuda.mem_get_info(found)
    words = f"{found}, {free / 2**30:.1f} of {whole / 2**30:.1f} GiB free"
    if free < _LITTLE:
        return Said(words, found, "warn", "stop what else uses it, or lower max_physical_batch in site.toml")
    return Said(words, found)


def memory() -> Said[None]:
    """Main memory that programs can have; not looked at where the system does not tell."""
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB$", _MEMINFO.read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        found = None
    if found is None:
        return Said("this system does not tell how much is free", None)
    free = 1024 * int(found[1])
    words = f"{free / 2**30:.1f} GiB free"
    if free < _LITTLE:
        return Said(words, None, "warn", "stop what else runs here, or lower max_physical_batch in site.toml")
    return Said(words, None)
