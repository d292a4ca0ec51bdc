"""A partner's folder and its rules: `site.toml`, strict, and the places of everything beside it.

DIR/site.toml      what the partner decides; written by `tacit-client join`, edited by hand
DIR/keys/          mode 0700
DIR/peers.toml     identity keys that the partner accepted
DIR/roster.toml    identity keys as the server names them
DIR/ledger.db      what the data was used for
DIR/audit.log      what was asked and decided, chained and authenticated
DIR/mark           how far ledger and log have come, as last told to the server
DIR/statements/    what each run cost, signed
DIR/logs/          client.log, rotated
DIR/run.lock       held by the one process that works with all this
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

import tomli_w

from tacit.check import parse
from tacit.data.files import FORMATS
from tacit.errors import BadInput
from tacit.link import keyfile
from tacit.passphrase import read_passphrase
from tacit.seal import Lock, read_key
from tacit_client.config import PolicySection, SiteConfig

__all__ = ["Folder", "check_modes", "find", "load", "write"]

_JOIN = "name the folder that tacit-client join made, or join first: tacit-client join INVITE --dir DIR"


class Folder:
    """A partner's folder that is complete enough to work with.

    Attributes:
        path: absolute.
        config: of its site.toml.
    """

    def __init__(self, path: Path, config: SiteConfig) -> None:
        self.path = path
        self.config = config

    @classmethod
    def open(cls, path: Path) -> Folder:
        """The folder at `path`.

        Raises:
            BadInput: no partner's folder, a site.toml that can not be used, or keys that others can read.

        Guarantee: keys are not used while another user of the machine may read or replace them.
        """
        path = find(path)
        check_modes(path / "keys")
        return cls(path, load(path / "site.toml"))

    @property
    def keys(self) -> Path:
        return self.path / "keys"

    @property
    def peers(self) -> Path:
        return self.path / "peers.toml"

    @property
    def roster(self) -> Path:
        return self.path / "roster.toml"

    @property
    def ledger(self) -> Path:
        return self._place(self.config.ledger or "ledger.db")

    @property
    def audit(self) -> Path:
        return self.path / "audit.log"

    @property
    def mark(self) -> Path:
        return self.path / "mark"

    @property
    def statements(self) -> Path:
        return self.path / "statements"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def lock(self) -> Path:
        return self.path / "run.lock"

    @property
    def data(self) -> Path:
        """Where the examples are. Raises BadInput where site.toml does not say."""
        if self.config.data.path is None:
            raise BadInput("expected data.path in site.toml, found nothing", hint="add the path of your data there")
        return self._place(self.config.data.path)

    @property
    def data_lock(self) -> Lock | None:
        """What opens sealed data; None where neither a key nor a passphrase is there.

        Raises:
            BadInput: the file that site.toml names is missing, is no key or passphrase, or is open to others.
        """
        section = self.config.data
        if section.passphrase_file is not None:
            return read_passphrase(self._place(section.passphrase_file))
        if section.key is not None:
            return read_key(self._place(section.key))
        usual = self.keys / "seal.key"
        return read_key(usual) if usual.exists() else None

    def _place(self, named: str) -> Path:
        """What site.toml names, beginning at this folder or with `~` at a user's home. Raises BadInput for no user."""
        try:
            return self.path / Path(named).expanduser()
        except RuntimeError:
            raise BadInput(
                f"expected a path in site.toml, found {named}, of a user whose home this machine does not know",
                hint="write the whole path, from / on",
            ) from None


def find(path: Path) -> Path:
    """`path`, absolute, where it is a partner's folder, however broken. Raises BadInput where it is none."""
    path = path.resolve()
    try:
        (path / "site.toml").stat()
    except (FileNotFoundError, NotADirectoryError):
        raise BadInput(f"expected a partner's folder with a site.toml at {path}, found none", hint=_JOIN) from None
    except OSError as error:
        raise BadInput(
            f"expected a partner's folder that this user may use at {path}, found: {error.strerror}",
            hint="run as the user who joined",
        ) from None
    return path


def load(path: Path) -> SiteConfig:
    """The site.toml at `path`. Raises BadInput: unreadable, not TOML, or a key that is unknown, missing or wrong."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"expected a site.toml at {path}, found none: {error.strerror}", hint=_JOIN) from None
    except (ValueError, RecursionError) as error:  # bad TOML and bad UTF-8; numbers and brackets without end
        raise BadInput(f"expected TOML in {path}, found {error}", hint="mend that line") from None
    return parse(SiteConfig, raw, where=path.name)


def write(directory: Path, *, name: str, address: str, data: Path | None, trust_new_peers: bool) -> Path:
    """A site.toml in `directory` with a line of comment for every key, to be edited by the partner.

    One that is there already is left as it is, so that joining again loses nobody's edits.

    Args:
        directory: the partner's folder, which must exist.
        name: of the partner.
        address: HOST:PORT of the server.
        data: the partner's data, or None to fill in later; relative to where the command runs.
        trust_new_peers: for the policy.

    Raises:
        BadInput: a name or an address that is none, a site.toml there that is broken or another partner's, or no way
            to write.
    """
    path = directory / "site.toml"
    if path.exists():
        if (found := load(path).name) != name:
            raise BadInput(
                f"expected the site.toml of {name} at {path}, found that of {found}", hint="join in another folder"
            )
        return path
    text = _template(name=name, address=address, data=data, trust_new_peers=trust_new_peers)
    parse(SiteConfig, tomllib.loads(text), where=path.name)
    keyfile.write(path, text.encode())
    return path


def _template(*, name: str, address: str, data: Path | None, trust_new_peers: bool) -> str:
    policy = PolicySection(trust_new_peers=trust_new_peers)
    where = '# path = "/data/scans.csv"' if data is None else _line("path", str(data.expanduser().resolve()))
    return f"""\
# What this partner decides. Changes hold from the next start of tacit-client run.
{_line("name", name)}
device = "auto"                      # auto | cpu | cuda | cuda:1 | mps
# threads = 4                        # of the processor; left out: torch's own choice
# max_physical_batch = 256           # lower it where the device runs out of memory; changes no result
# ledger = "/srv/tacit/ledger.db"    # one ledger for all federations that train on this data; left out: ledger.db here

[server]
{_line("address", address)}

[data]
# A file or folder; a relative path begins at this folder. Moving or changing it stops the training.
{where}
# {" | ".join(FORMATS)}
format = "auto"
# input = "image"                    # column, or columns separated by commas, or array to learn from
# label = "diagnosis"                # column or array of labels
# labels = ["benign", "malignant"]   # classes that a job must know, whichever are here: a refusal then tells of none
# image_size = 28                    # images are resized to so many pixels a side
# unit = "patient_id"                # column that names the person: all rows of one are protected together
# max_per_unit = 1                   # rows of one person in a step of training
# drop = ["name", "address"]         # columns that are never kept in memory
# pseudonymise = ["patient_id"]      # columns of which only a keyed hash of each value is kept
# key = "keys/seal.key"              # opens data sealed with tacit-client seal
# passphrase_file = "/etc/tacit/pass" # or a file with the passphrase, one line, mode 0600

[policy]
# Epsilon of all that training ever released about this data, for any job or server. Jobs that would pass it are
# refused.
{_line("epsilon_limit", policy.epsilon_limit)}
# The delta at which that epsilon is counted, below one over the number of examples. Larger ones are refused.
{_line("delta", policy.delta)}
# Partners, this one among them, without whom no round is joined. Only those accepted with tacit-client peers count.
{_line("min_cohort", policy.min_cohort)}
# true: the server sees sums over partners only; jobs that would show it this partner's own update are refused.
{_line("require_secure_aggregation", policy.require_secure_aggregation)}
# true: jobs without differential privacy are allowed too. Nothing bounds what they tell, so the limit leaves them out.
{_line("allow_unprotected", policy.allow_unprotected)}
# true: jobs whose noise the server adds are allowed too. What they promise does not hold against the server.
{_line("trust_server_noise", policy.trust_server_noise)}
# Partners that may work together with the server: jobs whose noise comes from all partners together, and is too little
# without so many of them, are refused.
{_line("colluders", policy.colluders)}
# true: every peer that the server names is accepted. Convenient, and no protection against a server that lies.
{_line("trust_new_peers", policy.trust_new_peers)}
# Kinds of task that this partner takes part in.
allowed_tasks = [{", ".join(f'"{task}"' for task in policy.allowed_tasks)}]
# Paths of vocabularies that a job may name, written as the job writes them. No other file is opened for a job.
vocabularies = []
# The share of the examples that a job may hold out of training, at most, the same ones in every job. 0.0 refuses jobs
# that hold any out.
{_line("max_holdout", policy.max_holdout)}
# Evaluations over the life of the data whose counts are exact, in all jobs: what they tell is outside of epsilon_limit.
{_line("max_exact_evaluations", policy.max_exact_evaluations)}
# What all evaluations of one job may cost: noise on every count that they tell, counted against epsilon_limit. Left
# out, counts over the examples held out are exact.
# metrics_epsilon = 1.0
# Rounds of training in any 24 hours.
{_line("max_rounds_per_day", policy.max_rounds_per_day)}
"""


def _line(key: str, value: Any) -> str:
    return tomli_w.dumps({key: value}).rstrip("\n")


def check_modes(keys: Path) -> None:
    """The folder of keys and the keys in it are open to this user alone. Raises BadInput."""
    if not keys.is_dir():
        raise BadInput(f"expected this partner's keys at {keys}, found none", hint=_JOIN)
    for path in (keys, *sorted(keys.glob("*.key"))):
        keyfile.check_mode(path)
        if path.stat().st_uid != os.geteuid():
            raise BadInput(
                f"expected keys of the user who runs this, found another owner at {path}",
                hint="run as the user who joined",
            )
