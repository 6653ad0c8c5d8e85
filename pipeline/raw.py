"""Raw files: where they are, which delivery they belong to, what columns they have, and how the engine reads them.

A folder that holds `manifest.json` is a delivery; files outside any delivery are one undated delivery. The engine reads
UTF-8 csv, parquet and json lines itself (gzip and zstd too); what it cannot read (other encodings, CR-only line ends,
arff, xlsx) is first rewritten as UTF-8 csv in a scratch folder. Files are read by column name, never by position, and
every csv value arrives as text.
"""

from __future__ import annotations

import codecs
import csv
import fnmatch
import hashlib
import io
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from features.errors import DataRefused, Problem
from features.expressions import quote
from features.layout import expanded, split_payments
from features.mapping import Format, Mapping, is_glob
from pipeline.manifests import Delivery, read_manifest
from pipeline.packed import is_array, open_bytes
from pipeline.sheets import sheet_rows

RAW = Path("data/raw")
HEAD = 1 << 18  # bytes that hold any header
PACKED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip"}


@dataclass(frozen=True)
class RawFile:
    """One raw file: its name under data/raw/<source>, its name inside its delivery, its real path."""

    name: str
    inner: str
    path: Path
    delivery: Delivery

    @property
    def stated(self) -> dict[str, Any]:
        """Return what its delivery's manifest states of it: sha256, rows, totals; {} where it says nothing."""
        return (self.delivery.files or {}).get(self.inner, {})


def _walk(top: Path, place: str) -> list[RawFile]:
    """Return every file below `top`; links to files and folders elsewhere are followed.

    Refuses (exit code 2) a link to nothing, a link into a folder that holds it, and what is no file (a pipe, a device).
    """
    found, wrong = [], []
    for folder, folders, names in os.walk(top, followlinks=True):
        here = Path(folder)
        relative = PurePosixPath(here.relative_to(top).as_posix())
        above = {folder.resolve() for folder in (here, *here.parents)}
        for inner in [name for name in folders if (here / name).is_symlink()]:
            if (here / inner).resolve() in above:
                folders.remove(inner)
                wrong.append((relative / inner, "a link into a folder that holds it"))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in names if not name.startswith(".")):
            if (here / name).is_file():
                found.append(RawFile(str(relative / name), name, here / name, Delivery("")))
            else:
                said = "a link to nothing" if (here / name).is_symlink() else "something else"
                wrong.append((relative / name, said))
    if wrong:
        raise DataRefused(
            Problem(f"{place}/{name}", "a file, a folder, or a link to one elsewhere", said, "Correct or remove it.")
            for name, said in wrong
        )
    return found


def has_linked_folders(source: str) -> bool:
    """Tell whether a folder inside a source's folder is a link: DVC does not look behind those."""
    return any(
        (Path(folder) / name).is_symlink()
        for folder, folders, _ in os.walk((RAW / source).resolve())
        for name in folders
    )


def list_files(source: str) -> list[RawFile]:
    """Return every raw file of a source, ordered by name; refuse (exit code 2) a folder that is not there."""
    root = RAW / source
    if not root.is_dir():
        raise DataRefused(
            Problem(str(root), "a folder (or a link to one) with the source's files", "no such folder",
                    f"Link or copy the files there: ln -s <folder> {root}")
        )  # fmt: skip
    return files_below(root)


def files_below(root: Path) -> list[RawFile]:
    """Return every raw file below a folder, ordered by name, each with its delivery."""
    found = _walk(root.resolve(), str(root))
    manifests = [file for file in found if file.inner == "manifest.json"]
    deliveries = {
        str(PurePosixPath(file.name).parent): read_manifest(file.path, str(PurePosixPath(file.name).parent))
        for file in manifests
    }
    placed = []
    for file in found:
        if file.inner == "manifest.json":
            continue
        parents = [str(parent) for parent in PurePosixPath(file.name).parents]
        home = next((parent for parent in parents if parent in deliveries), None)
        inner = file.name if home in (None, ".") else str(PurePosixPath(file.name).relative_to(home))
        placed.append(replace(file, inner=inner, delivery=deliveries.get(home or "", Delivery("."))))
    return sorted(placed, key=lambda file: file.name)


def _matches(name: str, pattern: str) -> bool:
    """Match a glob part by part: `*` stays inside a folder, `**` spans folders."""
    parts, globs = name.split("/"), pattern.split("/")

    def match(i: int, j: int) -> bool:
        if j == len(globs):
            return i == len(parts)
        if globs[j] == "**":
            return any(match(k, j + 1) for k in range(i, len(parts) + 1))
        return i < len(parts) and fnmatch.fnmatchcase(parts[i], globs[j]) and match(i + 1, j + 1)

    return match(0, 0)


def select_files(files: list[RawFile], patterns: Iterable[str]) -> list[RawFile]:
    """Return the files that a block's globs name, inside their delivery or from the source's folder."""
    wanted = list(patterns)
    return [file for file in files if any(_matches(file.inner, glob) or _matches(file.name, glob) for glob in wanted)]


def _decoded(data: bytes, form: Format, place: str) -> str:
    """Decode the head of a file, or refuse its encoding."""
    kind = next((kind for magic, kind in PACKED.items() if data.startswith(magic)), None)
    if kind:
        found = f"a {kind} archive"
        raise DataRefused(Problem(place, f"text in {form.encoding}", found, "Name it so, or unpack it.", place))
    try:
        decoder = codecs.getincrementaldecoder("utf-8-sig" if is_utf8(form) else form.encoding)()
        return decoder.decode(data)
    except (UnicodeError, LookupError) as error:
        found = "a name that Python does not know" if isinstance(error, LookupError) else "bytes that are not"
        line = None
        if isinstance(error, UnicodeDecodeError):
            line = data[: error.start].count(10) + 1
            found += f", first in line {line} (byte {error.start + 1:,})"
        remedy = "State the file's `encoding` under `format`."
        raise DataRefused(
            Problem(place, f"text in {form.encoding}", found, remedy, place, line, rule="encoding")
        ) from None


def is_utf8(form: Format) -> bool:
    """Tell whether the engine can read a file's encoding."""
    return form.encoding.lower().replace("_", "-") in ("utf-8", "utf8", "utf-8-sig", "ascii")


def unreadable(place: str, form: Format, error: Exception) -> DataRefused:
    """Return the refusal of what the engine cannot read, with the line where it says one, and no text of the file."""
    line = re.search(r"\bline (\d+)", str(error).split("LINE 1:")[0])
    found = f"{type(error).__name__}{f' near line {line[1]}' if line else ''}"
    kind = form.type if form.type != "csv" else f"csv in {form.encoding}"
    remedy = "Correct `format`, or deliver it again."
    return DataRefused(Problem(place, f"readable as {kind}", found, remedy, place, int(line[1]) if line else None))


def unique_names(names: list[str]) -> list[str]:
    """Name columns without a name by their place, and number repeated ones."""
    seen: set[str] = set()
    unique = []
    for place, raw in enumerate(names):
        base = raw.strip() or f"column{place}"
        name, count = base, 0
        while name.lower() in seen:
            count += 1
            name = f"{base}_{count}"
        seen.add(name.lower())
        unique.append(name)
    return unique


def read_head(file: RawFile, form: Format) -> tuple[list[str], bool, bool]:
    """Return (column names, whether the line ends are CR alone, whether a row follows) of a csv or arff file."""
    names, cr_only, follows = _head(file, form)
    return unique_names(names), cr_only, follows


def repeated(file: RawFile, form: Format) -> set[str]:
    """Return the names, in lower case, that the header of a csv file gives to several columns."""
    names = [name.strip().lower() for name in _head(file, form)[0]] if form.type == "csv" and form.header else []
    return {name for name in names if name and names.count(name) > 1}


def _head(file: RawFile, form: Format) -> tuple[list[str], bool, bool]:
    """Return what `read_head` does, the names as they are given."""
    with open_bytes(file.path) as stream:
        data = stream.read(HEAD)
    text = _decoded(data, form, file.name)
    cr_only = "\r" in text and "\n" not in text
    lines = io.StringIO(text, newline=None)
    if form.type == "arff":
        names = re.findall(r"(?im)^\s*@attribute\s+('[^']*'|\"[^\"]*\"|\S+)", text)
        body = re.split(r"(?im)^\s*@data\s*$", text, maxsplit=1)
        return [name.strip("'\"") for name in names], cr_only, len(body) == 2 and bool(body[1].strip())
    for _ in range(form.skip):
        lines.readline()
    quoting = {"quotechar": form.quote} if form.quote else {"quoting": csv.QUOTE_NONE, "quotechar": None}
    single = len(form.delimiter) == 1
    rows: Iterator[list[str]] = (
        csv.reader(lines, delimiter=form.delimiter, **quoting)  # type: ignore[arg-type]
        if single
        else (line.rstrip("\n").split(form.delimiter) for line in lines)
    )
    first: list[str] = []
    with suppress(csv.Error):  # a text of more than 128 KiB, as after a quotation that is not closed: the engine tells
        first = next(rows, [])
        if form.header and any("\0" in name for name in first):
            raise DataRefused(Problem(file.name, "a header of text", "NUL bytes in it", "Deliver it again."))
        return _names(first, form), cr_only, next(rows, None) is not None or (not form.header and bool(first))
    return _names(first, form), cr_only, True


def _names(first: list[str], form: Format) -> list[str]:
    """Return the column names as they are given, from a file's first row."""
    return first if form.header else form.names or [""] * len(first)


class RawReader:
    """Gives the engine's SQL over a block's files; rewrites into `scratch` what the engine cannot read."""

    def __init__(self, connection: Any, scratch: Path) -> None:
        self.connection, self.scratch = connection, scratch
        self.ids: dict[str, int] = {}
        self.files: list[RawFile] = []
        self.paths: dict[str, int] = {}
        self.anew: set[str] = set()  # files with several kinds of line ends: written anew with one
        self.headers: dict[str, dict[str, list[list[str]]]] = {}  # file -> format -> (column, type), in their order

    def register(self, file: RawFile) -> int:
        """Return a file's number."""
        if file.name not in self.ids:
            self.ids[file.name] = len(self.files)
            self.files.append(file)
        return self.ids[file.name]

    def columns(self, files: list[RawFile], form: Format) -> dict[str, str]:
        """Return column -> type over all files, from their headers alone."""
        columns: dict[str, str] = {}
        for file in files:
            names = self.header(file, form)
            for name, kind in names.items():
                columns.setdefault(next((have for have in columns if have.lower() == name.lower()), name), kind)
        return columns

    def header(self, file: RawFile, form: Format) -> dict[str, str]:
        """Return column -> type of one file, read once."""
        known = self.headers.setdefault(file.name, {})
        key = hashlib.sha256(form.model_dump_json().encode()).hexdigest()[:12]
        if key not in known:
            known[key] = [list(pair) for pair in self._header(file, form).items()]
        return {pair[0]: pair[1] for pair in known[key]}

    def _header(self, file: RawFile, form: Format) -> dict[str, str]:
        """Return column -> type of one file."""
        if form.type in ("csv", "arff"):
            return dict.fromkeys(read_head(file, form)[0], "VARCHAR")
        if form.type == "xlsx":
            return dict.fromkeys(unique_names(next(iter(sheet_rows(file.path, file.name, form)), [])), "VARCHAR")
        import duckdb

        scan = self._scan([self._path(file)], form, {})
        try:
            rows = self.connection.execute(f"DESCRIBE SELECT * FROM {scan}").fetchall()
        except duckdb.OutOfMemoryException:
            raise
        except duckdb.Error as error:
            raise unreadable(file.name, form, error) from error
        if form.type == "jsonl" and [row[0] for row in rows] == ["json"]:  # what the engine calls a column of anything
            must = "records that are all JSON objects"
            raise DataRefused(Problem(file.name, must, "another kind of value", "Deliver it again.", file.name))
        return {row[0]: "VARCHAR" if form.type == "jsonl" else row[1] for row in rows}

    def _path(self, file: RawFile) -> Path:
        """Return where the engine finds a file: a link where its path would be taken for a pattern of several."""
        if not re.search(r"[*?\[]", str(file.path)):
            return file.path
        link = self.scratch / f"{self.register(file)}-{re.sub(r'[*?]|[^ -~]|[][]', '_', file.path.name)}"
        if not link.is_symlink():
            link.symlink_to(file.path.resolve())
        return link

    def _rewritten(self, file: RawFile, form: Format) -> tuple[Path, Format]:
        """Return the file as the engine can read it: itself, or a UTF-8 csv in the scratch folder."""
        target = self.scratch / f"{self.register(file)}-{form.type}.csv"
        plain = Format(
            delimiter=form.delimiter, quote=form.quote, escape=form.escape, header=form.header, skip=form.skip
        )
        if form.type == "xlsx":
            with target.open("w", encoding="utf-8", newline="") as out:
                csv.writer(out, lineterminator="\n").writerows(sheet_rows(file.path, file.name, form))
            return target, Format()
        if form.type == "arff":
            with open_bytes(file.path) as stream, target.open("wb") as sink:
                for line in iter(stream.readline, b""):
                    if line.strip().lower() == b"@data":
                        break
                sink.writelines(line for line in stream if not line.lstrip().startswith(b"%"))
            return target, Format(quote="'", header=False)
        anew = file.name in self.anew
        if form.type != "csv" or (is_utf8(form) and not anew and not read_head(file, form)[1]):
            return self._path(file), form
        encoding = "utf-8-sig" if is_utf8(form) else form.encoding
        try:
            with (
                open_bytes(file.path) as stream,
                io.TextIOWrapper(stream, encoding=encoding, newline=None) as text,
                target.open("w", encoding="utf-8", newline="\n") as out,
            ):
                shutil.copyfileobj(text, out, 1 << 20)
        except UnicodeError:
            raise DataRefused(
                Problem(file.name, f"text in {form.encoding}", "bytes that are not", "State the file's `encoding`.")
            ) from None
        return target, plain

    def _scan(self, paths: list[Path], form: Format, columns: dict[str, str]) -> str:
        """Return the table function that reads files of one header."""
        listed = "[" + ", ".join(quote(str(path)) for path in paths) + "]"
        if form.type == "parquet":
            return f"read_parquet({listed}, union_by_name = true)"
        if form.type == "jsonl":
            types = ", ".join(f"{quote(name)}: 'VARCHAR'" for name in columns)
            named = f", columns = {{{types}}}" if types else ", sample_size = -1, maximum_depth = 1"
            written = "auto" if any(is_array(path) for path in paths) else "newline_delimited"
            return f"read_json({listed}, format = '{written}'{named})"
        types = ", ".join(f"{quote(name)}: 'VARCHAR'" for name in columns)
        escape = form.escape if form.escape is not None else form.quote
        nulls = ", ".join(quote(text) for text in ["", *form.nulls])
        return (
            f"read_csv({listed}, auto_detect = false, header = {str(form.header).lower()}, skip = {form.skip}, "
            f"delim = {quote(form.delimiter)}, quote = {quote(form.quote)}, escape = {quote(escape)}, "
            f"columns = {{{types}}}, nullstr = [{nulls}], store_rejects = true, rejects_limit = 0)"
        )

    def query(self, files: list[RawFile], form: Format) -> str:
        """Return SQL of all rows of `files` with __file (number) and __delivered_on, in the files' order."""
        groups: dict[str, tuple[tuple[str, ...], Format, list[tuple[RawFile, Path]]]] = {}
        for file in files:
            number = self.register(file)
            path, plain = self._rewritten(file, form)
            self.paths[str(path)] = number
            header = tuple(self.header(file, form)) if form.type != "parquet" else ()
            nulls = [*form.nulls, "?"] if form.type == "arff" else form.nulls
            plain = plain.model_copy(update={"nulls": nulls})
            groups.setdefault(repr((header, plain)), (header, plain, []))[2].append((file, path))
        selects = []
        for header, plain, members in groups.values():
            scan = self._scan([path for _, path in members], plain, dict.fromkeys(header, "VARCHAR"))
            numbers = ", ".join(str(self.ids[file.name]) for file, _ in members)
            dates = ", ".join(
                f"DATE '{file.delivery.delivered_on}'" if file.delivery.delivered_on else "NULL::DATE"
                for file, _ in members
            )
            at = "CAST(file_index AS BIGINT) + 1"
            selects.append(
                f"SELECT *, CAST([{numbers}][{at}] AS INTEGER) AS __file, [{dates}][{at}] AS __delivered_on FROM {scan}"
            )
        return " UNION ALL BY NAME ".join(selects)


def laid_out(mapping: Mapping, files: list[RawFile] | None = None) -> Mapping:
    """Return a mapping as it is to be built: payments split off, globs replaced by its files' columns (by headers).

    The files are those of the source where none are given.
    """
    mapping = split_payments(mapping)
    blocks = [block for table in mapping.tables.values() for block in table]
    if not any(
        is_glob(name) for block in blocks for name in (*block.attributes.numeric, *block.attributes.categorical)
    ):
        return mapping
    import duckdb

    held = list_files(mapping.name) if files is None else files
    with tempfile.TemporaryDirectory(prefix="bellwether-") as scratch, duckdb.connect() as connection:
        reader = RawReader(connection, Path(scratch))
        return expanded(mapping, lambda block: reader.columns(select_files(held, block.files), block.format))
