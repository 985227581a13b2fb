"""Where rows, and the texts and blobs in them, stand on a page of a database file (https://www.sqlite.org/fileformat2.html#b_tree_pages)."""

from dodeka_db.sqlite.header import HEADER_BYTES

_LEAF_OF_TABLE, _LEAF_OF_INDEX, _INTERIOR_OF_INDEX = 0x0D, 0x0A, 0x02
# bytes of a value by its serial type; from 12 on it is a text or a blob
_NUMBER_BYTES = (0, 1, 2, 3, 4, 6, 8, 8, 0, 0, 0, 0)


Spans = list[tuple[int, int]]


def row_and_text_spans(page: bytes, is_first: bool) -> tuple[Spans, Spans]:
    """The begin and the end of each row that stands on a whole `page`, and of each text and blob in it, as far as they stand there.

    `is_first`: the page with the header of the file. The page must be one of a database that is whole, without reserved bytes at the
    end of pages. Pages without rows have none. On a page on which a long row goes on, its bytes are one text.
    """
    start = HEADER_BYTES if is_first else 0
    kind = page[start]
    if kind == 0:
        return [(4, len(page))], [(4, len(page))]
    if kind not in (_LEAF_OF_TABLE, _LEAF_OF_INDEX, _INTERIOR_OF_INDEX):
        return [], []
    pointers = start + (12 if kind == _INTERIOR_OF_INDEX else 8)
    rows: Spans = []
    texts: Spans = []
    for number in range(int.from_bytes(page[start + 3 : start + 5], "big")):
        at = pointers + 2 * number
        row, of_row = _spans_of_cell(page, int.from_bytes(page[at : at + 2], "big"), kind)
        rows.append(row)
        texts += of_row
    return rows, texts


def _spans_of_cell(page: bytes, start: int, kind: int) -> tuple[tuple[int, int], Spans]:
    at = start
    payload_bytes, at = _varint(page, at + 4 if kind == _INTERIOR_OF_INDEX else at)
    if kind == _LEAF_OF_TABLE:
        _rowid, at = _varint(page, at)
    end = at + _bytes_here(payload_bytes, len(page), kind)
    header_bytes, position = _varint(page, at)
    body = at + header_bytes
    spans = []
    while position < at + header_bytes:
        serial, position = _varint(page, position)
        length = (serial - 12) // 2 if serial >= len(_NUMBER_BYTES) else _NUMBER_BYTES[serial]
        if serial >= len(_NUMBER_BYTES) and body < end:
            spans.append((body, min(body + length, end)))
        body += length
    return (start, end), spans


def _bytes_here(payload_bytes: int, page_bytes: int, kind: int) -> int:
    """How much of a row is on its page; the rest is on others (https://www.sqlite.org/fileformat2.html#cellformat)."""
    most = page_bytes - 35 if kind == _LEAF_OF_TABLE else (page_bytes - 12) * 64 // 255 - 23
    if payload_bytes <= most:
        return payload_bytes
    least = (page_bytes - 12) * 32 // 255 - 23
    fitting = least + (payload_bytes - least) % (page_bytes - 4)
    return fitting if fitting <= most else least


def _varint(page: bytes, at: int) -> tuple[int, int]:
    """The number at `at`, and where it ends (https://www.sqlite.org/fileformat2.html#varint)."""
    number = 0
    for place in range(at, at + 8):
        number = number << 7 | page[place] & 0x7F
        if page[place] < 0x80:
            return number, place + 1
    return number << 8 | page[at + 8], at + 9
