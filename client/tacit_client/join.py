"""Become a partner: keys made here, a certificate for them, and a folder to work in."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from tacit.errors import BadInput
from tacit.link import enrolment
from tacit.link.enrolment import fingerprint
from tacit.link.invitation import Invitation
from tacit.link.words import words
from tacit.lock import take
from tacit_client.keys import Keys

__all__ = ["join"]


def join(invitation_path: Path, directory: Path, *, data: Path | None, trust_new_peers: bool) -> None:
    """Use an invitation, and say what was made and what comes next.

    A call that was interrupted is repeated as it was: it goes on with the keys on disk, which the server knows again.
    `site.toml` is written last; with it the folder is a partner's. A line of the audit log says so.

    Args:
        invitation_path: the file that the server's operator sent.
        directory: the partner's folder, new, or left by an interrupted call.
        data: the partner's data, for site.toml; None to fill in later.
        trust_new_peers: for site.toml.

    Guarantee: private keys are on this machine's disk before anything is asked of the server, and stay there.

    Raises:
        BadInput: an invitation that can not be used, with the server's reason; a folder that has joined already or
            can not be written; no data there.
    """
    invitation = Invitation.read(invitation_path)
    _check_date(invitation)
    # os.path's: Path's own raises where there is no such user
    if data is not None and not Path(os.path.expanduser(data)).exists():
        raise BadInput(
            f"expected data at {data}, found none", hint="correct --data, or leave it out and edit site.toml"
        )
    _make_folder(directory)
    with take(directory / "run.lock", what=f"tacit-client join in {directory}"):
        _check_new(directory)
        keys = Keys.make(directory / "keys", authority=invitation.authority, server=invitation.server)
        _enrol(invitation, keys, directory)
        _write_site(invitation, directory, data=data, trust_new_peers=trust_new_peers)
        _note(directory, keys)
    _tell(invitation, keys, directory, data=data)


def _check_date(invitation: Invitation) -> None:
    now = datetime.now(UTC)
    if now >= invitation.expires:
        raise BadInput(
            f"expected an invitation that is still open, found one that expired {invitation.expires:%Y-%m-%d %H:%M} UTC"
            f"; this machine's clock says {now:%Y-%m-%d %H:%M} UTC",
            hint="ask the server's operator for a new invitation, or set this clock",
        )


def _make_folder(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(
            f"expected to make the folder {directory}, found {error.strerror}", hint="choose another --dir"
        ) from None


def _check_new(directory: Path) -> None:
    if all((directory / name).exists() for name in ("site.toml", "audit.log", "keys/link.pem")):
        raise BadInput(
            f"expected a new folder at {directory}, found one that has joined",
            hint=f"start it with tacit-client run {directory}, or choose another --dir",
        )


def _enrol(invitation: Invitation, keys: Keys, directory: Path) -> None:
    """Ask, and keep the answer."""
    from tacit_client import calls, roster

    request = keys.request(invitation.name)
    mark = invitation.subject.fingerprint
    proof = enrolment.sign(keys.identity, name=invitation.name, request=request, invitation=mark)
    enrolled = calls.enrol(invitation, request=request, identity=keys.public, proof=proof)
    roster.keep(directory / "roster.toml", enrolled.roster, keys=keys)
    keys.keep(enrolled.certificate)


def _write_site(invitation: Invitation, directory: Path, *, data: Path | None, trust_new_peers: bool) -> None:
    from tacit_client import site

    site.write(directory, name=invitation.name, address=invitation.address, data=data, trust_new_peers=trust_new_peers)


def _note(directory: Path, keys: Keys) -> None:
    """The first line of the audit log."""
    from tacit_client.audit import Audit
    from tacit_client.site import Folder

    folder = Folder.open(directory)
    facts = {
        "name": folder.config.name,
        "server": folder.config.server.address,
        "server_key": keys.server.hex(),
        "identity": keys.public.hex(),
    }
    Audit.of(folder).write("joined", facts)


def _tell(invitation: Invitation, keys: Keys, directory: Path, *, data: Path | None) -> None:
    site = directory / "site.toml"
    print(
        f"{invitation.name} is a partner of the federation at {invitation.address}\n\n"
        f"  {directory / 'keys'}: private keys; keep them on this machine, and in a backup that you alone can open\n"
        f"  {site}: your data and your rules\n"
        f"  identity: {fingerprint(keys.public)}\n"
        f"            {words(keys.public)}\n"
        f"  server:   {fingerprint(keys.server)}\n"
        f"            {words(keys.server)}\n\n"
        "next:\n"
        f"  1. {'say more about' if data else 'name'} your data and read the rules in {site}\n"
        "  2. by telephone or in person, compare the server's identity with its operator, who is shown it by init and\n"
        "     invite; tell the operator and the other partners yours, and accept theirs:\n"
        f"     tacit-client peers {directory}\n"
        f"  3. take part: tacit-client run {directory}\n"
        "The invitation is used up and can be deleted."
    )
