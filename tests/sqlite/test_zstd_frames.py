"""frames: what zstd -d makes of ours, what we make of zstd's, and what damage does."""

import io
import json
import os
import random
import statistics
import subprocess
import zlib
from collections.abc import Iterator
from contextlib import suppress

import pytest
import zstandard

from dodeka_db.errors import SnapshotError
from dodeka_db.sqlite import sample_data, zstd_frames
from dodeka_db.sqlite.export import export_compacted

PAGE = 4096


@pytest.fixture(scope="module")
def export(tmp_path_factory) -> bytes:
    folder = tmp_path_factory.mktemp("export")
    sample_data.create(folder / "db.sqlite", members=6000)
    export_compacted(folder / "db.sqlite", folder / "export.sqlite")
    content = (folder / "export.sqlite").read_bytes()
    assert (
        len(content) > zstd_frames.FIRST_FRAME_BYTES + 20 * zstd_frames.FRAME_BYTES
    )  # else there is nothing to cut
    return content


def compressed(content: bytes, page: int = PAGE) -> bytes:
    target = io.BytesIO()
    zstd_frames.compress(io.BytesIO(content), target, page)
    return target.getvalue()


def decompressed(archive: bytes) -> bytes:
    target = io.BytesIO()
    zstd_frames.decompress(io.BytesIO(archive), target)
    return target.getvalue()


def split(archive: bytes) -> list[bytes]:
    """The frames that hold data; between each two of them there is a boundary."""
    found = []
    while archive:
        frame = zstandard.ZstdDecompressor().decompressobj()
        frame.decompress(archive)
        found.append(archive[: len(archive) - len(frame.unused_data)])
        archive = frame.unused_data
    assert found[1::2] == [zstd_frames.BOUNDARY] * (len(found) // 2) and len(found) % 2
    return found[::2]


def test_zstd_turns_it_back_byte_for_byte(export, tmp_path):
    (tmp_path / "x.zst").write_bytes(compressed(export))
    assert (
        subprocess.run(["zstd", "-dc", tmp_path / "x.zst"], capture_output=True, check=True).stdout == export
    )
    listed = subprocess.run(["zstd", "-lv", tmp_path / "x.zst"], capture_output=True, check=True, text=True)
    assert "Check: XXH64" in listed.stdout


def test_every_frame_says_its_size_and_carries_its_checksum(export):
    cut = split(compressed(export))
    assert len(cut) > 3
    sizes = []
    for frame in cut:
        parameters = zstandard.get_frame_parameters(frame)
        assert parameters.has_checksum
        sizes.append(parameters.content_size)
    assert sum(sizes) == len(export)
    assert sizes[0] == zstd_frames.FIRST_FRAME_BYTES
    assert max(sizes[1:]) <= zstd_frames.FRAME_BYTES * 4
    assert min(sizes[1:-1]) >= zstd_frames.FRAME_BYTES // 4


def test_what_fits_into_one_chunk_of_restic_s_is_one_frame(export):
    small = export[: zstd_frames.FIRST_FRAME_BYTES]
    assert len(split(compressed(small))) == 1
    assert len(split(compressed(small + export[:PAGE]))) == 2


def test_all_cores_give_the_same_bytes_as_one(export, monkeypatch):
    many = compressed(export)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0})
    assert compressed(export) == many


def test_restic_cuts_its_chunks_where_frames_end(site, tmp_path):
    file = tmp_path / "file.zst"
    seen = set()
    archive = compressed(random.Random(6).randbytes(40 * 1024 * 1024))  # it does not compress
    archive = archive[
        len(split(archive)[0]) + len(zstd_frames.BOUNDARY) :
    ]  # without the first frame, a long one

    def new_chunks() -> Iterator[int]:
        site.restic("backup", "--quiet", "--compression", "off", str(file))
        for index in site.restic("list", "index", "--quiet").stdout.split():
            for pack in json.loads(site.restic("cat", "index", index).stdout)["packs"]:
                for blob in pack["blobs"]:
                    if blob["type"] == "data" and blob["id"] not in seen:
                        seen.add(blob["id"])
                        yield blob["length"]

    file.write_bytes(archive)
    with_boundaries = list(new_chunks())
    # 512 KiB, and what is left of the frame then
    assert max(with_boundaries) < 512 * 1024 + 4 * zstd_frames.FRAME_BYTES + 1000
    file.write_bytes(archive.replace(zstd_frames.BOUNDARY, b""))
    without = list(new_chunks())
    assert statistics.mean(with_boundaries) < 0.7 * statistics.mean(without)


@pytest.mark.slow("zstd -19", keep=["arguments0"])
@pytest.mark.parametrize("arguments", [["--rsyncable"], ["-19"], ["--no-check"], ["-T2", "--rsyncable"]])
def test_what_zstd_compressed_decompresses(export, arguments):
    archive = subprocess.run(["zstd", "-c", *arguments], input=export, capture_output=True, check=True).stdout
    assert decompressed(archive) == export


@pytest.mark.parametrize("page", [512, 1024, 4096, 65536])
@pytest.mark.parametrize("pages", [1, 7, 500])
def test_round_trip_of_every_page_size(page, pages):
    content = random.Random(pages).randbytes(page * pages)
    assert decompressed(compressed(content, page)) == content


def test_a_page_inserted_or_removed_changes_only_the_frames_around_it(export):
    before = set(split(compressed(export)))
    middle = len(export) // PAGE // 2 * PAGE
    for changed in (
        export[:middle] + os.urandom(PAGE) + export[middle:],
        export[:middle] + export[middle + PAGE :],
        export[:middle] + os.urandom(PAGE) + export[middle + PAGE :],
    ):
        assert len(set(split(compressed(changed))) - before) <= 2


def test_the_same_content_gives_the_same_bytes(export):
    assert compressed(export) == compressed(export)


def test_a_file_cut_off_inside_a_frame_is_refused(export):
    archive = compressed(export)
    boundaries = [0]
    for frame in split(archive):
        boundaries += [boundaries[-1] + len(frame), boundaries[-1] + len(frame) + len(zstd_frames.BOUNDARY)]
    rng = random.Random(3)
    for length in [
        1,
        3,
        boundaries[1] - 1,
        boundaries[1] + 1,
        len(archive) - 1,
        *rng.sample(range(len(archive)), 20),
    ]:
        if length not in boundaries:
            with pytest.raises(SnapshotError, match=r"cut off|damaged"):
                decompressed(archive[:length])


def test_nothing_at_all_is_refused():
    with pytest.raises(SnapshotError, match="empty"):
        decompressed(b"")


def test_each_of_40_flipped_bits_is_noticed(export):
    archive = compressed(export)
    rng = random.Random(4)
    for _ in range(40):
        broken = bytearray(archive)
        broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
        with suppress(SnapshotError):  # else it is a bit that means nothing, as the unused ones of a header
            assert decompressed(bytes(broken)) == export


def test_something_that_is_not_zstd_is_refused():
    with pytest.raises(SnapshotError, match="damaged"):
        decompressed(b"SQLite format 3\0" * 100)


def test_skippable_frames_are_passed_over(export):
    skippable = b"\x50\x2a\x4d\x18" + (1000).to_bytes(4, "little") + bytes(1000)
    first, *rest = split(compressed(export))
    assert decompressed(skippable + first + skippable + b"".join(rest) + skippable) == export


def test_a_long_run_of_zeros_does_not_fill_the_memory():
    class Counter(io.RawIOBase):
        largest = total = 0

        def write(self, data) -> int:
            self.largest = max(self.largest, len(data))
            self.total += len(data)
            return len(data)

    target = Counter()
    zeros = zstandard.ZstdCompressor(write_checksum=True).compress(bytes(1_000_000_000))
    zstd_frames.decompress(io.BytesIO(zeros), target)
    assert target.total == 1_000_000_000
    assert target.largest <= 160_000_000


def test_the_cuts_are_where_the_checksum_says(export):
    at = zstd_frames.FIRST_FRAME_BYTES
    for frame in split(compressed(export))[1:-1]:
        size = zstandard.get_frame_parameters(frame).content_size
        at += size
        fingerprint = zlib.crc32(export[at - zstd_frames.FINGERPRINT_BYTES : at])
        assert fingerprint % (zstd_frames.FRAME_BYTES // PAGE) == 0 or size == zstd_frames.FRAME_BYTES * 4
