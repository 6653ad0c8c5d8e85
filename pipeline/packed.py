"""Raw files as bytes: gzip and zstd undone, and refused where they are torn; what no text needs is found.

A packed file that is cut short reads well up to the cut, and one with a wrong checksum to its end: neither may pass as
data. `open_bytes` is the one door to a file's bytes, `look_through` goes through it to the end.
"""

from __future__ import annotations

import codecs
import gzip
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from features.errors import DataRefused, IntegrityRefused, Problem, ResourceRefused

CHUNK = 1 << 22
MOST_PACKED, LEAST_BOMB = 200, 64 << 20  # more than this many times its size, and so many bytes: no data
AGAIN = "Deliver it again."


@contextmanager
def open_bytes(path: Path) -> Iterator[BinaryIO]:
    """Open a file, gzip or zstd undone; refuse what is cut short or no such archive (2), and a wrong checksum (7)."""
    place = f"{path.parent.name}/{path.name}"
    if path.name.endswith(".gz"):
        try:
            with gzip.open(path, "rb") as stream:
                yield stream  # type: ignore[misc]
        except EOFError:
            raise DataRefused(Problem(place, "a whole gzip file", "one that is cut short", AGAIN, place)) from None
        except gzip.BadGzipFile as error:
            if "Not a gzipped file" in str(error):
                raise DataRefused(
                    Problem(place, "gzip, as its name says", "something else", "Rename it.", place)
                ) from None
            raise IntegrityRefused(
                Problem(place, "bytes with the checksum that it holds", "others", AGAIN, place)
            ) from None
        except zlib.error:
            raise DataRefused(
                Problem(place, "a whole gzip file", "bytes that gzip cannot read", AGAIN, place)
            ) from None
    elif path.name.endswith((".zst", ".zstd")):
        import pyarrow as pa

        try:
            with pa.CompressedInputStream(pa.OSFile(str(path)), "zstd") as stream:
                yield stream
        except OSError as error:
            if error.errno is not None:
                raise
            raise DataRefused(
                Problem(place, "a whole zstd file", "bytes that zstd cannot read", AGAIN, place)
            ) from None
    else:
        with path.open("rb") as stream:
            yield stream


def look_through(path: Path) -> bool:
    """Read a file of text to its end; return whether it holds bytes that no text needs: NUL, or a BOM inside.

    What is packed is thereby checked whole. Refuses (exit code 5) what unpacks to more than 200 times its size.
    """
    packed = path.name.endswith((".gz", ".zst", ".zstd"))
    limit = max(LEAST_BOMB, MOST_PACKED * path.stat().st_size) if packed else None
    odd, size, tail = False, 0, b""
    with open_bytes(path) as stream:
        while chunk := stream.read(CHUNK):
            if not odd:
                inside = tail + chunk if size else chunk.removeprefix(codecs.BOM_UTF8)
                odd = b"\0" in chunk or (b"\xef" in inside and codecs.BOM_UTF8 in inside)
            size, tail = size + len(chunk), chunk[-2:]
            if limit is None and odd:
                return True
            if limit is not None and size > limit:
                raise _bomb(path, f"more than {limit >> 20:,} MiB")
    return odd


def _bomb(path: Path, what: str) -> ResourceRefused:
    """Return the refusal of a file that holds so much in so few bytes that it cannot be data."""
    found = f"{what} in {path.stat().st_size >> 10:,} KiB"
    remedy = "Deliver it unpacked."
    return ResourceRefused(Problem(path.name, "an archive that can be data", found, remedy, path.name, rule="packed"))


def weigh_workbook(path: Path) -> None:
    """Refuse (exit code 5) a workbook whose parts unpack to more than 200 times its size.

    A part cannot hold more than it states: what reads it stops there.
    """
    with zipfile.ZipFile(path) as archive:
        size = sum(part.file_size for part in archive.infolist())
    if size > max(LEAST_BOMB, MOST_PACKED * path.stat().st_size):
        raise _bomb(path, f"{size >> 20:,} MiB")


def weigh_parquet(path: Path) -> None:
    """Refuse (exit code 5) a Parquet file that states 200 times its size or more rows than keys tell apart.

    One that cannot be read is told of by who reads it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        stated = pq.read_metadata(path)
    except (OSError, pa.ArrowException):
        return
    groups = [stated.row_group(number) for number in range(stated.num_row_groups)]
    size, most = sum(group.total_byte_size for group in groups), MOST_PACKED * path.stat().st_size
    if size > max(LEAST_BOMB, most):
        raise _bomb(path, f"{size >> 20:,} MiB")
    if stated.num_rows > max(LEAST_BOMB, most):
        raise _bomb(path, f"{stated.num_rows:,} rows")


def is_array(path: Path) -> bool:
    """Tell whether a JSON file is one array of records rather than a record a line."""
    with open_bytes(path) as stream:
        return stream.read(64).removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"["
