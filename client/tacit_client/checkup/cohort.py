"""The other partners: what the server says of them, and whom this one accepted."""

from __future__ import annotations

from collections.abc import Sequence

from tacit.errors import BadInput
from tacit.link.enrolment import fingerprint
from tacit.link.roster import SignedRoster
from tacit_client import peers, roster
from tacit_client.calls import Greeted
from tacit_client.checkup.finding import Said
from tacit_client.keys import Keys
from tacit_client.peers import Peer
from tacit_client.site import Folder

__all__ = ["accepted", "listed", "stored"]


def stored(folder: Folder, keys: Keys) -> Said[SignedRoster | None]:
    """The list of partners that the server gave last, as it was signed. Raises BadInput."""
    found = roster.read(folder.roster, keys=keys)
    if found is None:
        return Said("none yet; the server gives it at the first connection", None)
    return Said(f"version {found.version}, signed by the server, names {len(found.peers)} partners", found)


def listed(folder: Folder, keys: Keys, greeted: Greeted) -> Said[SignedRoster | None]:
    """The list that the server gives now. Raises BadInput where it is not signed, or older than the one before."""
    roster.check(folder.roster, greeted.roster, keys=keys)
    own = greeted.roster.peers.get(folder.config.name)
    if own is not None and own != keys.public:
        raise BadInput(
            f"ALARM: expected this partner's own key in the server's list, found another ({fingerprint(own)})",
            hint="tell the operator and the other partners over another channel: others would take it for yours",
        )
    return Said(f"version {greeted.roster.version}, no older than the one kept here", greeted.roster)


def accepted(folder: Folder, kept: SignedRoster | None, now: SignedRoster | None) -> Said[None]:
    """Enough partners whose keys were compared, and none whose key changed. Raises BadInput where they can not be read.

    Args:
        folder: the partner's.
        kept: the server's list in the folder; None for none.
        now: the list that counts; without one all who were accepted count.
    """
    rules, name = folder.config.policy, folder.config.name
    named = peers.read(folder.peers) if now is None else now.peers
    found = [peer for peer in peers.overview(folder.peers, named=named) if peer.name != name]
    changed = [peer for peer in found if peer.state == "changed"]
    if changed:
        return _alarm(changed)
    new = [peer.name for peer in found if peer.state == "new"]
    count = 1 + sum(peer.state == "accepted" for peer in found)
    words = f"{count} accepted, this partner among them, of {rules.min_cohort} that site.toml asks for"
    if rules.trust_new_peers:
        return _trusting(folder, count=count + len(new), words=words)
    if count >= rules.min_cohort:
        return Said(words + (f"; not accepted: {', '.join(new)}" if new else ""), None)
    remedy = _accept(folder, new, kept) if new else "wait until the operator has invited more partners"
    return Said(words, None, "FAIL" if rules.require_secure_aggregation else "warn", remedy)


def _alarm(changed: Sequence[Peer]) -> Said[None]:
    names = ", ".join(peer.name for peer in changed)
    return Said(
        f"ALARM: the server names another key than the accepted one for {names}; it is not used",
        None, "FAIL", "ask that partner over another channel; only if its key really changed, remove it and accept it "
        "anew with tacit-client peers",
    )  # fmt: skip


def _trusting(folder: Folder, *, count: int, words: str) -> Said[None]:
    least = folder.config.policy.min_cohort
    if count < least:
        found = f"{words}, and {count} with those whom trust_new_peers accepts"
        return Said(found, None, "FAIL", "wait until the operator has invited more partners")
    return Said(
        f"trust_new_peers = true: {count} with whomever the server names, and no protection from a server that lies",
        None, "warn", "compare keys, accept each with tacit-client peers, and set policy.trust_new_peers = false",
    )  # fmt: skip


def _accept(folder: Folder, new: Sequence[str], kept: SignedRoster | None) -> str:
    each = "; ".join(f"tacit-client peers {folder.path} accept {name}" for name in new[:3])
    known = kept is not None and set(new) <= kept.peers.keys()
    first = "" if known else f"fetch the list: tacit-client peers {folder.path} --refresh, "
    return f"{first}compare keys with the others over another channel, then: {each}"
