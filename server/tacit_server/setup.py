"""A new server folder, and the gateway's certificate while it lives."""

from __future__ import annotations

import os
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tacit.check import parse
from tacit.errors import BadInput
from tacit.link import keyfile
from tacit.link.certificates import Role, due, hosts, issue, make_authority, make_key, make_request
from tacit.seal import make_key as make_seal_key
from tacit.secagg.constants import KEY
from tacit_server.config import ServerConfig
from tacit_server.folder import Folder
from tacit_server.roster import Roster

__all__ = ["init", "renew_gateway"]

_AUTHORITY_DAYS = 3650  # a new one means inviting every partner anew, so it should outlive the federation
_GATEWAY = "gateway"


def init(path: Path, *, host: str, port: int = 9443) -> Folder:
    """Make a server folder at `path`: keys, certificates, roster, config.

    Args:
        path: a folder that is empty or does not exist.
        host: by which partners reach the gateway.
        port: of the gateway.

    Guarantee: no key that exists is overwritten, and the folder is usable only once all of it is there. Other users of
    the machine see nothing of what lies in it but `server.toml`, and that only in a folder that was there before.

    Raises:
        BadInput: something is there already, the folder can not be written, the host or port is none.
    """
    folder = Folder(path)
    settings = parse(ServerConfig, {"host": host, "port": port}, where="the command line")
    _make_folders(folder)
    _make_keys(folder, settings)
    Roster(folder.roster_path).close()
    settings.write(folder.config_path)  # last: with it the folder is a server's
    return Folder.open(path)


def renew_gateway(folder: Folder, now: datetime) -> bool:
    """Replace the gateway's certificate where it is due, or `host` has changed since. Returns whether it was.

    The key stays, so that the two files fit at every moment. For the gateway, when it starts and daily.

    Raises:
        BadInput: keys that are missing, open to others or do not fit, or an authority that has expired.
    """
    current = keyfile.read(folder.gateway)
    if hosts(current) == (folder.config.host,) and not due(current, now=now):
        return False
    keyfile.write(folder.gateway, _gateway_certificate(folder, folder.config, now=now))
    return True


def _make_folders(folder: Folder) -> None:
    try:
        folder.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = sorted(os.listdir(folder.path))
        if folder.config_path.name in found:
            raise BadInput(
                f"expected no server in {folder.path}, found one", hint="use it, or choose another folder for a new one"
            )
        if found:
            raise BadInput(
                f"expected an empty folder at {folder.path}, found {found[0]} in it",
                hint="choose another folder, or empty this one if an earlier init was interrupted",
            )
        # State holds what partners sent, on its way to the rounds; runs hold models.
        for each in (folder.keys, folder.runs, folder.state, folder.logs):
            each.mkdir(mode=0o700)
    except OSError as error:
        raise BadInput(
            f"expected to make a server folder at {folder.path}, found {error.strerror}",
            hint="check the parent folder's rights, or choose another place",
        ) from None


def _make_keys(folder: Folder, settings: ServerConfig) -> None:
    now = datetime.now(UTC)
    # The digits tell two federations apart where one machine takes part in both.
    name = f"authority-{secrets.token_hex(4)}"
    key, certificate = make_authority(name=name, lifetime=timedelta(days=_AUTHORITY_DAYS), now=now)
    keyfile.write(folder.authority_key, key)
    keyfile.write(folder.authority, certificate)
    keyfile.write(folder.gateway_key, make_key())
    keyfile.write(folder.gateway, _gateway_certificate(folder, settings, now=now))
    keyfile.write(folder.signing_key, secrets.token_bytes(KEY))
    make_seal_key(folder.seal_key)


def _gateway_certificate(folder: Folder, settings: ServerConfig, *, now: datetime) -> bytes:
    return issue(
        authority_key=keyfile.read(folder.authority_key),
        authority=keyfile.read(folder.authority),
        request=make_request(keyfile.read(folder.gateway_key), name=_GATEWAY),
        role=Role.GATEWAY,
        name=_GATEWAY,
        lifetime=timedelta(days=settings.gateway_days),
        hosts=(settings.host,),
        now=now,
    )
