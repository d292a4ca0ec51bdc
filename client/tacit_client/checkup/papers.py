"""Certificates: whether they are in date by this machine's clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from tacit.link.certificates import Subject, subject
from tacit_client.checkup.finding import Said
from tacit_client.keys import Keys

__all__ = ["authority", "certificate"]

_SOON = timedelta(days=10)


def certificate(keys: Keys, *, now: datetime | None = None) -> Said[None]:
    """The partner's own. `now` is the clock's."""
    return _dates(
        subject(keys.certificate),
        now=now or datetime.now(UTC),
        soon="start tacit-client run, which renews it as long as the server admits it",
        over="is this machine's clock right? if so, ask the operator for a new invitation and join in a new folder",
    )


def authority(keys: Keys, *, now: datetime | None = None) -> Said[None]:
    """The federation's. `now` is the clock's."""
    return _dates(
        subject(keys.authority),
        now=now or datetime.now(UTC),
        soon="ask the operator for a new federation, to which everybody is invited anew",
        over="is this machine's clock right? if so, ask the operator for a new federation",
    )


def _dates(who: Subject, *, now: datetime, soon: str, over: str) -> Said[None]:
    clock = f"this machine's clock says {now:%Y-%m-%d %H:%M} UTC"
    if now < who.not_before:
        return Said(f"not valid before {who.not_before:%Y-%m-%d %H:%M} UTC; {clock}", None, "FAIL", over)
    if now >= who.not_after:
        return Said(f"expired {who.not_after:%Y-%m-%d %H:%M} UTC; {clock}", None, "FAIL", over)
    if who.not_after - now < _SOON:
        return Said(f"ends {who.not_after:%Y-%m-%d %H:%M} UTC", None, "warn", soon)
    return Said(f"of {who.name}, until {who.not_after:%Y-%m-%d}", None)
