"""Types of streams: a file, the output of a program, a database that is being downloaded."""

from typing import Protocol


class Readable(Protocol):
    """A source of bytes."""

    def read(self, count: int = -1, /) -> bytes:
        """The next `count` bytes, fewer only at the end; all the rest where `count` is negative."""


class Writable(Protocol):
    """A target of bytes."""

    def write(self, block: bytes, /) -> object:
        """Take all of `block`."""
