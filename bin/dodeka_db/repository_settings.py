"""The settings of one restic repository: its address, its password, and all else that restic needs for it."""

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from dodeka_db import masking, repository_address

# the variables for restic's password; with FROM_ inside, for that of the repository to copy from
PASSWORDS = ("RESTIC_PASSWORD_FILE", "RESTIC_PASSWORD", "RESTIC_PASSWORD_COMMAND", "RESTIC_KEY_HINT")
READ_BY_RESTIC = re.compile(rf"RESTIC_\w+|{masking.OF_A_SERVER.pattern}|(?i:(https?|no|all)_proxy)")


@dataclass(frozen=True)
class RepositorySettings:
    """The settings of the main repository or of the off-site one; paths are absolute.

    `password_file` is None if restic gets its password another way. `state` is the folder for the lock, the temporary
    files and the records of the runs on this repository. `variables` are all settings and the environment; `for_restic` is the
    part that restic gets. A name that looks like a secret is passed on only if it is in `given`, the names that are set for us.
    `options` are restic's own, as it takes them after -o. `restic` is the program.
    `format`, one of settings.FORMATS, is that of new snapshots. `lock_wait_s` is how long a run waits for another one.
    `databases` are those of all environments. `retains` is whether the retention policy is applied to it. `copied_to` is the
    off-site repository of the main one; None if there is none.
    """

    address: str
    password_file: Path | None
    state: Path
    variables: Mapping[str, str]
    given: frozenset[str]
    restic: str
    format: str
    lock_wait_s: int
    databases: tuple[Path, ...]
    options: tuple[str, ...] = ()
    is_offsite: bool = False
    retains: bool = True
    copied_to: "RepositorySettings | None" = None

    @property
    def folder(self) -> Path | None:
        """The repository's folder on this machine; None if restic reaches it over a network."""
        return repository_address.folder(self.address)

    @property
    def shown(self) -> str:
        """Its address for messages: without a password."""
        return self.masked(self.address)

    @property
    def cache(self) -> Path:
        return Path(self.variables["RESTIC_CACHE_DIR"])

    @property
    def states(self) -> tuple[Path, ...]:
        """`state`; and for the off-site repository that of the main one, in which it is."""
        return (self.state, self.state.parent) if self.is_offsite else (self.state,)

    @property
    def staging(self) -> Path:
        """The folder for temporary files, restic's too: not /tmp, which may be in memory."""
        return self.state / "staging"

    @property
    def places(self) -> list[Path]:
        """All that a run looks at and may write."""
        own = (self.folder, self.password_file, self.state, self.cache)
        return [place for place in (*own, *self.databases) if place]

    @property
    def for_restic(self) -> dict[str, str]:
        """The environment of restic, and of the ssh or rclone that it starts: without our settings and other programs' secrets."""
        handed = {
            name: value
            for name, value in self.variables.items()
            if not name.startswith(("DODEKA_", "OFFSITE_"))
            and (name in self.given or not masking.is_secret(name) or READ_BY_RESTIC.fullmatch(name))
        }
        return {**handed, "RESTIC_REPOSITORY": self.address, "TMPDIR": str(self.staging)}

    @property
    def as_source(self) -> dict[str, str]:
        """The variables with which a restic on another repository reads this one too."""
        own = {name: self.variables[name] for name in PASSWORDS if name in self.variables}
        own["RESTIC_REPOSITORY"] = self.address
        return {name.replace("RESTIC_", "RESTIC_FROM_", 1): value for name, value in own.items()}

    def opened_with(self, password_file: Path) -> "RepositorySettings":
        """These settings with the password in `password_file` and no other."""
        others = {name: value for name, value in self.variables.items() if name not in PASSWORDS}
        variables = {**others, "RESTIC_PASSWORD_FILE": str(password_file)}
        return replace(self, password_file=password_file, variables=variables)

    def masked(self, text: str) -> str:
        """`text` without passwords: those in an address, and the value of every variable whose name suggests a secret."""
        return masking.masked(text, self.variables)

    def make(self, words: str) -> str:
        """The command `make <words>`, for this repository, with the settings file that was named."""
        named = self.variables.get("DODEKA_BACKUP_ENV")
        # /dev/null: everything is in the environment
        config = f" CONFIG={shlex.quote(named)}" if named and named != os.devnull else ""
        return f"make {words}{' OFFSITE=1' if self.is_offsite else ''}{config}"
