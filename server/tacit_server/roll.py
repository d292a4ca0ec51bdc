"""Who is there: partners by Flower's node id, as they come and go."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from flwr.serverapp import Grid

from tacit.errors import BadInput
from tacit.parcel import Parcel
from tacit.wire import HELLO, Hello
from tacit_server.transport import News, exchange

__all__ = ["Roster", "ask_names", "present"]

_log = logging.getLogger(__name__)

_HELLO_TIMEOUT = 30.0  # seconds for one who comes later: the others wait

Roster = dict[int, Hello]
"""Partners by Flower's node id."""


def ask_names(
    grid: Grid, nodes: Sequence[int], *, timeout: float, stop: threading.Event, news: News = lambda: None
) -> Roster:
    """Who is at each of `nodes`; whoever can not say its name within `timeout` seconds is not there."""
    found: Roster = {}
    if nodes:
        parcels = dict.fromkeys(nodes, Parcel({}, {}))
        for node, answer in exchange(grid, parcels, kind=HELLO, timeout=timeout, group="hello", stop=stop, news=news):
            if isinstance(answer, Parcel):
                with suppress(BadInput):
                    found[node] = Hello.unpack(answer)
    return found


def present(
    grid: Grid,
    roster: Roster,
    *,
    check: Callable[[int, Hello], None],
    stop: threading.Event,
    news: News = lambda: None,
) -> Roster:
    """Those of `roster` whose nodes are still there, and those who are new.

    Args:
        check: raises BadInput where a node is not the partner that it says it is.
        stop: set from another thread to leave.
        news: as in `exchange`.

    Guarantee: nobody whom `check` refuses, and no second node of one name or key, takes part; the log names them.
    """
    nodes = sorted(grid.get_node_ids())
    found = {node: roster[node] for node in nodes if node in roster}
    strangers = [node for node in nodes if node not in roster]
    found |= ask_names(grid, strangers, timeout=_HELLO_TIMEOUT, stop=stop, news=news)
    admitted: Roster = {}
    for node, partner in found.items():
        try:
            check(node, partner)
            _check_alone(partner, admitted)
        except BadInput as error:
            _log.warning("left out: %s", error.message)
        else:
            admitted[node] = partner
    return admitted


def _check_alone(partner: Hello, admitted: Roster) -> None:
    if any(partner.name == other.name or partner.identity == other.identity for other in admitted.values()):
        raise BadInput(f"expected one node of {partner.name}, found two", hint="rename one partner, or join it anew")
