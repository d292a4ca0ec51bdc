"""Flower's SuperLink as a process that ends with its parent: `python -m tacit_server.superlink_child FLAGS`."""

from __future__ import annotations

import logging
import sys

from tacit_server.parent import end_with_parent

__all__ = ["main"]


def main() -> None:
    """Run flower-superlink with this process's arguments."""
    end_with_parent()
    # A line for every request would be all that the log holds.
    logging.getLogger("uvicorn.access").addFilter(lambda record: False)
    from flwr.superlink.cli.flower_superlink import flower_superlink

    sys.argv[0] = "flower-superlink"
    flower_superlink()


if __name__ == "__main__":
    main()
