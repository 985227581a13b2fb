"""The rights to a file: owner, group, mode, access control list and extended attributes."""

import os
import pwd
import stat
import struct
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from errno import ENOTSUP
from pathlib import Path

from dodeka_db import safe_open

# how Linux stores a POSIX ACL: a version, then a tag, permissions and an ID for each entry (linux/posix_acl_xattr.h)
_ACL = "system.posix_acl_access"
_VERSION = struct.pack("<I", 2)
_ENTRY = struct.Struct("<HHI")
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_NO_ID = 0xFFFFFFFF
_ALL, _READ = 0o7, 0o4
# attributes of these names are set by the system on a new file, if we may not
_OF_THE_SYSTEM = ("security.", "system.", "trusted.")

Entry = tuple[int, int]


@dataclass(frozen=True)
class Rights:
    """The rights to a file: `entries` are the permissions (rwx as three bits) of its ACL by tag and ID, or those of its mode."""

    owner: int
    group: int
    entries: Mapping[Entry, int]
    attributes: Mapping[str, bytes]

    def stricter(self, other: "Rights") -> "Rights":
        """These rights less those that `other` does not give to the same user or group; the owner keeps all."""
        asked = {**self.entries, **{entry: 0 for entry in other.entries if entry[0] in (_USER, _GROUP)}}
        entries = {
            entry: (self.entries[entry] if entry in self.entries else self.permits(entry, self))
            & other.permits(entry, self)
            for entry in asked
        }
        if len(entries) > len(self.entries):  # named users or groups were added, which needs a mask
            entries.setdefault((_MASK, _NO_ID), _ALL)
        return replace(self, entries=entries)

    def readers(self, users: set[int], groups: set[int]) -> list[str]:
        """Who may read the file besides its owner and group and these `users` and `groups`, as setfacl names them; `others` are all."""
        mask = self.entries.get((_MASK, _NO_ID), _ALL)
        named = [
            f"{kind}:{of}"
            for (tag, of), bits in sorted(self.entries.items())
            for kind, named_tag, known in (
                ("u", _USER, users | {self.owner}),
                ("g", _GROUP, groups | {self.group}),
            )
            if tag == named_tag and of not in known and bits & mask & _READ
        ]
        return ["others"] if self.entries[_OTHER, _NO_ID] & _READ else named

    def within(self, folder: Path) -> "Rights":
        """These rights without those of users and groups that `folder` does not let through. Raises OSError."""
        mode = folder.stat().st_mode
        closed = {_OTHER} if not mode & stat.S_IXOTH else set()
        if not mode & stat.S_IXGRP:
            closed |= {_GROUP_OBJ, _USER, _GROUP}
        return replace(
            self,
            entries={(tag, of): 0 if tag in closed else bits for (tag, of), bits in self.entries.items()},
        )

    def own(self, path: Path) -> None:
        """Give the file at `path` this owner and group, and these attributes; the mode stays closed until open_up(). Raises OSError.

        Only root may give a file away. So the file stays ours if its group gives the owner the same permissions.
        """
        with _opened(path) as file:
            status = os.fstat(file)
            owner = status.st_uid if os.geteuid() and self._group_serves_owner() else self.owner
            if (status.st_uid, status.st_gid) != (owner, self.group):
                os.fchown(file, owner, self.group)
            for name, value in self.attributes.items():
                try:
                    os.setxattr(file, name, value)
                except OSError:
                    if not name.startswith(_OF_THE_SYSTEM):
                        raise

    def open_up(self, path: Path) -> None:
        """Give the file at `path` this mode and ACL. Raises OSError."""
        with _opened(path) as file:
            if len(self.entries) > len((_USER_OBJ, _GROUP_OBJ, _OTHER)):
                packed = (_ENTRY.pack(tag, bits, of) for (tag, of), bits in sorted(self.entries.items()))
                os.setxattr(file, _ACL, _VERSION + b"".join(packed))
                return
            if _acl(file):  # from the folder's default ACL
                os.removexattr(file, _ACL)
            user, group, others = (self.entries[tag, _NO_ID] for tag in (_USER_OBJ, _GROUP_OBJ, _OTHER))
            mode = user << 6 | group << 3 | others
            # some file systems have one mode for all files, and refuse
            if stat.S_IMODE(os.fstat(file).st_mode) != mode:
                os.fchmod(file, mode)

    def _group_serves_owner(self) -> bool:
        """Whether the owner is in the group, and the group may do all that the owner may."""
        try:
            groups = os.getgrouplist(pwd.getpwuid(self.owner).pw_name, pwd.getpwuid(self.owner).pw_gid)
        except KeyError:  # a user whom this machine does not know
            return False
        allowed = self.entries[_GROUP_OBJ, _NO_ID] & self.entries.get((_MASK, _NO_ID), _ALL)
        return self.group in groups and not self.entries[_USER_OBJ, _NO_ID] & ~allowed

    def permits(self, entry: Entry, asked: "Rights") -> int:
        """The permissions, by these rights, of the user or group of `entry` in the rights `asked`."""
        tag, of = entry
        if tag in (_USER_OBJ, _MASK):
            return _ALL
        if tag == _GROUP_OBJ:
            tag, of = _GROUP, asked.group
        if (tag, of) == (_USER, self.owner):
            return _ALL
        if (tag, of) == (_GROUP, self.group):
            tag, of = _GROUP_OBJ, _NO_ID
        if (tag, of) not in self.entries or tag == _OTHER:
            # that user may be in the file's group, which may have less than all others
            return self.entries[_OTHER, _NO_ID] & self.entries[_GROUP_OBJ, _NO_ID]
        return self.entries[tag, of] & self.entries.get((_MASK, _NO_ID), _ALL)


def read(file: Path) -> Rights:
    """The rights of `file`. Raises OSError."""
    status = file.stat()
    entries = _acl(file) or _of_mode(status.st_mode)
    attributes = {name: os.getxattr(file, name) for name in _names(file) if name != _ACL}
    return Rights(status.st_uid, status.st_gid, entries, attributes)


def for_new_file(folder: Path) -> Rights:
    """The rights of a new file in `folder`: for the folder's owner alone, and for its group where new files get that group.

    Raises OSError.
    """
    status = folder.stat()
    mode = 0o660 if status.st_mode & stat.S_ISGID else 0o600
    return Rights(status.st_uid, status.st_gid, _of_mode(mode), {})


def _opened(path: Path) -> AbstractContextManager[int]:
    # a descriptor stays the same file, even if another file gets its path
    return safe_open.closed_at_end(safe_open.no_link(path, os.O_RDONLY))


def _of_mode(mode: int) -> dict[Entry, int]:
    shifts = {_USER_OBJ: 6, _GROUP_OBJ: 3, _OTHER: 0}
    return {(tag, _NO_ID): mode >> shift & _ALL for tag, shift in shifts.items()}


def _acl(file: Path | int) -> dict[Entry, int]:
    if _ACL not in _names(file):
        return {}
    packed = os.getxattr(file, _ACL)[len(_VERSION) :]
    return {(tag, of): bits for tag, bits, of in _ENTRY.iter_unpack(packed)}


def _names(file: Path | int) -> list[str]:
    try:
        return os.listxattr(file)
    except OSError as error:
        if error.errno == ENOTSUP:  # a file system without attributes
            return []
        raise
