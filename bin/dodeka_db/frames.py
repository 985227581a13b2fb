"""zstd: an SQLite file to content-defined frames and back. Streams in, streams out.

`zstd --rsyncable` keeps unchanged stretches of the input unchanged in the output; python-zstandard does
not offer it. An SQLite file is made of pages, so the same is reached by starting a new frame behind every
page whose checksum ends in zeros: where a page was inserted or removed, the cuts fall into step again
with the next such page, and every frame from there on has the same bytes as before. The frames one after
another are an ordinary .zst file (RFC 8878, section 3.1).
"""

import zlib
from typing import BinaryIO

import zstandard

from dodeka_db.errors import SnapshotError

LEVEL = 3  # zstd's own default, what the shell scripts compressed with
FRAME_BYTES = 512 * 1024  # the mean length, before compression
READ_BYTES = 1024 * 1024
# a run of zeros decompresses 30,000 times larger: small pieces in, so that memory stays small
PIECE_BYTES = 4 * 1024


def compress(source: BinaryIO, target: BinaryIO, page_bytes: int) -> None:
    """Compress `source`, made of pages of `page_bytes` (a power of two), into frames with checksums.

    A frame holds from a quarter to four times FRAME_BYTES, the last one what is left.
    """
    compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True, write_content_size=True)
    mask = max(1, FRAME_BYTES // page_bytes) - 1
    frame = bytearray()
    while block := source.read(READ_BYTES):
        view = memoryview(block)
        for start in range(0, len(block), page_bytes):
            page = view[start : start + page_bytes]
            frame += page
            if len(frame) >= FRAME_BYTES // 4 and (
                zlib.crc32(page) & mask == 0 or len(frame) >= FRAME_BYTES * 4
            ):
                target.write(compressor.compress(frame))
                frame.clear()
    if frame:
        target.write(compressor.compress(frame))


def decompress(source: BinaryIO, target: BinaryIO) -> None:
    """Decompress every frame of `source`, ours or `zstd`'s.

    Raises SnapshotError if there is no frame, if the last one is cut off (python-zstandard by itself
    takes that for the end), or if a checksum does not match.
    """
    decompressor = zstandard.ZstdDecompressor()
    frame = None
    try:
        while piece := source.read(PIECE_BYTES):
            while piece:
                if frame is None or frame.eof:
                    frame = decompressor.decompressobj()
                target.write(frame.decompress(piece))
                piece = frame.unused_data
    except zstandard.ZstdError as error:
        raise SnapshotError(f"the compressed export is damaged ({error})", _HINT) from error
    if frame is None:
        raise SnapshotError("the compressed export is empty", _HINT)
    if not frame.eof:
        raise SnapshotError("the compressed export is cut off in the middle", _HINT)


_HINT = "choose another snapshot"
