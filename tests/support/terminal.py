"""A program on a terminal: typed to, and read from."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path


class Terminal:
    """A program whose three streams are one terminal. `setsid --ctty` before it makes that the terminal of its session too."""

    def __init__(
        self, command: Sequence[str | Path], env: Mapping[str, str] | None = None, columns: int = 80
    ) -> None:
        self._master, slave = pty.openpty()
        self.resize(columns)
        self._process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=env)
        os.close(slave)
        self._shown = ""

    def type(self, line: str) -> None:
        time.sleep(0.2)  # whoever asks drops what was typed before
        os.write(self._master, f"{line}\n".encode())

    def until(self, words: str) -> str:
        """All that was shown since the last call, when `words` are there."""
        deadline = time.monotonic() + 60
        while words not in self._shown:
            assert time.monotonic() < deadline, self._shown
            self._read()
        shown, self._shown = self._shown, ""
        return shown

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def press(self, key: bytes) -> None:
        os.write(self._master, key)

    def close(self) -> int:
        """Close the terminal, as somebody closes its window; returns the program's exit code."""
        os.close(self._master)
        return self._process.wait(timeout=60)

    def until_end(self, exit_code: int = 0) -> str:
        self._process.wait(timeout=60)
        while select.select([self._master], [], [], 0.1)[0] and self._read():
            pass
        assert self._process.returncode == exit_code, self._shown
        return self._shown

    def _read(self) -> bool:
        if not select.select([self._master], [], [], 1)[0]:
            return False
        try:
            self._shown += os.read(self._master, 10_000).decode()
        except OSError:  # how Linux says that nobody has the terminal open any more
            return False
        return True


def screen(shown: str, columns: int = 80) -> list[str]:
    """The lines of a terminal on which that was `shown`: text, carriage returns and newlines, and no other control character."""
    lines, at = [""], 0
    for character in shown:
        if character == "\r":
            at = 0
        elif character == "\n":
            lines.append("")
        else:
            assert character.isprintable(), repr(character)
            if at == columns:
                lines.append("")
                at = 0
            lines[-1] = lines[-1][:at].ljust(at) + character + lines[-1][at + 1 :]
            at += 1
    return [line.rstrip() for line in lines]
