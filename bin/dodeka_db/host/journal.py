"""One entry in the log of this machine: systemd's journal, with fields to look for; where there is none, syslog."""

import socket
import struct
import syslog
from collections.abc import Mapping
from pathlib import Path

IDENTIFIER = "dodeka-backup"
# https://systemd.io/JOURNAL_NATIVE_PROTOCOL/
SOCKET = Path("/run/systemd/journal/socket")
# a journal that hangs must not hold anybody up
PATIENCE_S = 2
_NOTICE = "5"


def write(message: str, fields: Mapping[str, str], journal: Path = SOCKET) -> None:
    """Write `message`, one line, and in a journal the `fields` too, by names of A-Z and _. Raises OSError.

    `journal` is the journal's socket.
    """
    if not journal.is_socket():
        syslog.openlog(IDENTIFIER)
        syslog.syslog(syslog.LOG_NOTICE, message)
        return
    entry = {"MESSAGE": message, "PRIORITY": _NOTICE, "SYSLOG_IDENTIFIER": IDENTIFIER, **fields}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
        connection.settimeout(PATIENCE_S)
        connection.sendto(b"".join(_field(name, value) for name, value in entry.items()), str(journal))


def _field(name: str, value: str) -> bytes:
    text = value.encode(errors="backslashreplace")
    if b"\n" not in text:
        return f"{name}=".encode() + text + b"\n"
    return f"{name}\n".encode() + struct.pack("<Q", len(text)) + text + b"\n"
