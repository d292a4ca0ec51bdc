"""What Linux tells about processes: who started whom, what listens, how much memory is held."""

from __future__ import annotations

import os
import re
import socket
from contextlib import suppress
from pathlib import Path

__all__ = ["commands", "family", "inodes", "resident", "sockets"]


def resident(pid: int) -> int:
    """Bytes of memory that a process holds."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return 1024 * int(re.findall(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)[0])


def commands() -> list[tuple[int, str]]:
    """Every process of this machine by its command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):  # it ended meanwhile
                found.append((int(entry.name), (entry / "cmdline").read_bytes().decode("utf-8", "replace")))
    return found


def family(pid: int) -> set[int]:
    """A process and everything that it started."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found = {pid}
    while new := {child for child, parent in parents.items() if parent in found} - found:
        found |= new
    return found


def inodes(pid: int) -> set[str]:
    """The sockets that a process holds open."""
    found = set()
    with suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                found.update(re.findall(r"^socket:\[(\d+)\]$", os.readlink(entry)))
    return found


def sockets() -> dict[str, tuple[str, int]]:
    """The TCP sockets of this machine that listen, by inode."""
    found = {}
    for name, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        with suppress(FileNotFoundError):
            for line in Path(f"/proc/net/{name}").read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A":
                    address, _, port = fields[1].partition(":")
                    words = [bytes.fromhex(address[i : i + 8])[::-1] for i in range(0, len(address), 8)]
                    found[fields[9]] = socket.inet_ntop(family, b"".join(words)), int(port, 16)
    return found
