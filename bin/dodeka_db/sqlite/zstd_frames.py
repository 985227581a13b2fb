"""zstd: an SQLite file to content-defined frames and back. Streams in, streams out.

`zstd --rsyncable` keeps unchanged stretches of the input unchanged in the output; python-zstandard does
not offer it. An SQLite file is made of pages, so the same is reached by starting a new frame after every
page whose end has a checksum that ends in zeros: after an inserted or removed page, the cuts are the same
again from the next such page on, and every later frame has the same bytes as before. The frames
one after another are an ordinary .zst file (RFC 8878, section 3.1).
"""

import os
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO

from dodeka_db import packages
from dodeka_db.errors import SnapshotError
from dodeka_db.interrupts import left_to_main_thread
from dodeka_db.stream_types import Readable, Writable

zstandard = packages.load("zstandard")

LEVEL = 3  # zstd's own default, what the shell scripts compressed with
# restic cuts no chunk under 512 KiB: what compresses to less gains nothing from several frames
FIRST_FRAME_BYTES = 2 * 1024 * 1024
FRAME_BYTES = 256 * 1024  # the mean length of the others; both before compression
# the end of a page, where its oldest row is: tells pages apart as well as the whole page, sixteen times faster
FINGERPRINT_BYTES = 256
# A skippable frame (RFC 8878, section 3.1.2). restic cuts a chunk, if it has 512 KiB by then, after 64 zeros:
# so chunks end where frames end, soon after those 512 KiB, and fewer of them change.
BOUNDARY = b"\x50\x2a\x4d\x18" + (64).to_bytes(4, "little") + bytes(64)
MAX_THREADS = 8  # each has some frames in memory
# a run of zeros decompresses 30,000 times larger: small pieces in, so that memory stays small
PIECE_BYTES = 1024
# what every decoder should support (RFC 8878, section 3.1.1.1.2), and more than our exports or zstd's levels need
WINDOW_BYTES = 8 * 1024 * 1024


def compress(source: BinaryIO, target: BinaryIO, page_bytes: int) -> None:
    """Compress `source`, made of pages of `page_bytes` (a power of two), into frames with checksums.

    On all cores, while it is being read. The first frame holds FIRST_FRAME_BYTES, the others from a quarter
    to four times FRAME_BYTES, the last one what is left.
    """
    threads = min(len(os.sched_getaffinity(0)), MAX_THREADS)
    with ThreadPoolExecutor(threads) as pool:
        for number, frame in enumerate(_compressed(_cut(source, page_bytes), pool, 2 * threads)):
            if number:
                target.write(BOUNDARY)
            target.write(frame)


def _compressed(
    frames: Iterator[bytes | bytearray], pool: ThreadPoolExecutor, at_a_time: int
) -> Iterator[bytes]:
    waiting: deque[Future[bytes]] = deque()
    for frame in frames:
        with left_to_main_thread():
            waiting.append(pool.submit(_compress, frame))
        if len(waiting) > at_a_time:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _cut(source: BinaryIO, page_bytes: int) -> Iterator[bytes | bytearray]:
    yield source.read(FIRST_FRAME_BYTES)
    mask = max(1, FRAME_BYTES // page_bytes) - 1
    frame = bytearray()
    while page := source.read(page_bytes):
        frame += page
        if len(frame) >= FRAME_BYTES // 4 and (
            zlib.crc32(page[-FINGERPRINT_BYTES:]) & mask == 0 or len(frame) >= FRAME_BYTES * 4
        ):
            yield frame
            frame = bytearray()
    if frame:
        yield frame


def _compress(frame: bytes | bytearray) -> bytes:
    # a new compressor: threads must not share one
    compressed: bytes = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).compress(frame)
    return compressed


def decompress(source: Readable, target: Writable) -> None:
    """Decompress every frame of `source`, ours or `zstd`'s.

    Raises SnapshotError if there is no frame, if the last one is cut off (python-zstandard by itself
    takes that for the end), or if a checksum does not match.
    """
    decompressor = zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES)
    frame = None
    try:
        while piece := source.read(PIECE_BYTES):
            while piece:
                if frame is None or frame.eof:
                    frame = decompressor.decompressobj()
                target.write(frame.decompress(piece))
                piece = frame.unused_data
    except zstandard.ZstdError as error:
        if "too much memory" in str(error):
            most = f"more than {WINDOW_BYTES // 2**20} MiB of memory (our limit)"
            raise SnapshotError(f"decompressing the export takes {most}", _HINT) from error
        raise SnapshotError(f"the compressed export is damaged ({error})", _HINT) from error
    if frame is None:
        raise SnapshotError("the compressed export is empty", _HINT)
    if not frame.eof:
        raise SnapshotError("the compressed export is cut off in the middle", _HINT)


_HINT = "choose another snapshot"
