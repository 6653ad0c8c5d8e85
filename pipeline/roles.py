"""What files and their columns could be to a lender: identifiers, dates, amounts, the outcome, and what leaks it.

Judged by name and by value, from a `Sniffed` head. Guesses for a person to confirm; `pipeline/new_source.py` writes
them down with their reasons.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from pipeline.looks import Column, quoted
from pipeline.packed import open_bytes
from pipeline.raw import RawFile, select_files
from pipeline.sniff import Sniffed, sniff, sniff_sheets
from pipeline.words import BAD, GOOD, ID_END, LINE_WORDS, LINES, OUTCOMES

DATA = "csv tsv txt dat asc data parquet pq json jsonl ndjson arff xlsx xlsm"
SHEETS = (".xlsx", ".xlsm")


@dataclass(frozen=True)
class Guess:
    """A column in a role, and what speaks for it."""

    column: str
    why: str
    sql: str = ""


def lowered(name: str) -> str:
    """Return a name for matching: words parted by `_`, lower case."""
    name = name.rpartition("->>")[2]  # of a field within a field
    return re.sub(r"[^\w]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)).strip("_").lower()


def _squeezed(name: str) -> str:
    return lowered(name).replace("_", "")


def fits(pattern: re.Pattern[str], column: Column) -> bool:
    """Tell whether a column's name fits, its words parted or not."""
    return bool(pattern.search(lowered(column.name)) or pattern.search(_squeezed(column.name)))


def named(sniffed: Sniffed, pattern: re.Pattern[str], *kinds: str) -> Column | None:
    """Return the first column of one of the kinds whose name fits, or None."""
    return next((c for c in sniffed.columns if c.kind in kinds and fits(pattern, c)), None)


def lines_of(sniffed: Sniffed) -> dict[str, Column]:
    """Return line of the accounts -> the column that is named like it."""
    named_so = [(lowered(c.name), c) for c in sniffed.columns if c.kind in ("number", "whole")]
    found = {line: next((c for words, c in named_so if re.fullmatch(LINE_WORDS[line], words)), None) for line in LINES}
    return {line: column for line, column in found.items() if column is not None}


def identifier(sniffed: Sniffed, pattern: re.Pattern[str]) -> Column | None:
    """Return the column that names the customer or the credit: by its name, the shortest that fits."""
    found = [c for c in sniffed.columns if c.kind in ("whole", "text") and fits(pattern, c) and c.different > 2]
    found = [c for c in found if max(map(len, c.values)) <= 80]
    return min(
        found,
        key=lambda c: (not re.search(ID_END[:-2] + "$", lowered(c.name)), -c.different, len(c.name)),
        default=None,
    )


def nearly_unique(sniffed: Sniffed, column: Column) -> bool:
    """Tell whether a column has another value in 99 of 100 rows."""
    return sniffed.rows > 1 and column.different >= 0.99 * sniffed.rows


def unique(sniffed: Sniffed, column: Column) -> bool:
    """Tell whether a column has another value in every row that was looked at."""
    return column.different == sniffed.rows and column.filled == sniffed.rows and sniffed.rows > 1


def outcome(sniffed: Sniffed) -> Guess | None:
    """Return the column that says how it ended, with the SQL that makes 1 (bad), 0 (good) or null of it."""
    found: list[tuple[int, Guess]] = []
    for column in sniffed.columns:
        scores = [score for pattern, score in OUTCOMES if re.search(pattern, lowered(column.name))
                  or re.search(pattern, _squeezed(column.name))]  # fmt: skip
        if not scores or not 2 <= column.different <= 12:
            continue
        sql, why = _outcome_sql(column)
        if sql:
            found.append((max(scores) * 2 + (column.different == 2), Guess(column.name, why, sql)))
    return max(found, key=lambda pair: pair[0])[1] if found else None


def _outcome_sql(column: Column) -> tuple[str, str]:
    """Return the SQL of an outcome over a column's values, empty where they do not say what is bad."""
    values = {value.lower(): value for value in column.values}
    if set(values) in ({"0", "1"}, {"0.0", "1.0"}, {"true", "false"}):
        sql = quoted(column.name)
        return (
            f"case when {sql} then 1 else 0 end" if "true" in values else sql
        ), "its name, and its values (1 is bad)"
    bad = sorted(value for low, value in values.items() if low in BAD)
    good = sorted(value for low, value in values.items() if low in GOOD)
    if not bad or not good:
        return "", ""

    def listed(texts: list[str]) -> str:
        return ", ".join("'" + text.replace("'", "''") + "'" for text in texts)

    sql = quoted(column.name)
    rest = len(values) - len(bad) - len(good)
    why = f"its name, and its values: bad is {', '.join(bad)}, good is {', '.join(good)}"
    why += f", the other {rest} are unknown" if rest else ""
    return f"case when {sql} in ({listed(bad)}) then 1 when {sql} in ({listed(good)}) then 0 end", why


def tells(sniffed: Sniffed, column: Column, outcome_column: str, bad_value: str) -> float:
    """Return how well one column alone, or whether it is filled, tells the outcome in the sample (AUC, 0.5 to 1)."""
    import numpy as np

    places = {c.name: place for place, c in enumerate(sniffed.columns)}
    rows = [row for row in sniffed.body if len(row) > max(places[column.name], places[outcome_column])]
    bad = np.array([row[places[outcome_column]].strip() == bad_value for row in rows])
    if not rows or bad.all() or not bad.any():
        return 0.5
    texts = np.array([row[places[column.name]].strip() for row in rows])
    best = _auc((texts != "").astype(float), bad)
    if column.kind in ("number", "whole"):
        plain = [text.replace(",", ".") for text in texts]
        numbers = np.array([float(t) if re.fullmatch(r"[-+]?\d*\.?\d+([eE][-+]?\d+)?", t) else np.nan for t in plain])
        known = ~np.isnan(numbers)
        if known.sum() > 50 and bad[known].any() and not bad[known].all():
            best = max(best, _auc(numbers[known], bad[known]))
    elif 2 <= column.different <= 20:
        shares = {value: bad[texts == value].mean() for value in set(texts)}
        best = max(best, _auc(np.array([shares[text] for text in texts]), bad))
    return best


def _auc(values: object, bad: object) -> float:
    from scipy.stats import rankdata

    ranks = rankdata(values)
    ones = int(bad.sum())  # type: ignore[attr-defined]
    zeros = len(bad) - ones  # type: ignore[arg-type]
    auc = (ranks[bad].sum() - ones * (ones + 1) / 2) / (ones * zeros)
    return float(max(auc, 1 - auc))


@dataclass
class Group:
    """Files with the same columns, read by one block."""

    files: list[RawFile]
    sniffed: Sniffed
    glob: str


def grouped(files: list[RawFile]) -> tuple[list[Group], list[str]]:
    """Return the readable files grouped by their columns, and the names of the others."""
    alike: dict[tuple[str, bytes], list[RawFile]] = {}
    others = []
    for file in files:
        suffixes = [s.lower() for s in PurePosixPath(file.name).suffixes if s not in (".gz", ".zst", ".zstd")]
        if not suffixes or suffixes[-1][1:] not in DATA.split() or not file.path.stat().st_size:
            others.append(file.name)
            continue
        alike.setdefault((suffixes[-1], _head_of(file, suffixes[-1])), []).append(file)
    groups = []
    for members in alike.values():
        chosen = [members[place] for place in sorted({0, len(members) // 3, 2 * len(members) // 3, len(members) - 1})]
        try:
            sheets = sniff_sheets(chosen[0]) if chosen[0].path.suffix.lower() in SHEETS else [sniff(*chosen)]
        except (ValueError, OSError, LookupError) as error:
            others += [f"{file.name} (unreadable: {type(error).__name__})" for file in members]
            continue
        groups += [Group(members, found, _glob(members, files)) for found in sheets if found.rows]
        if not any(found.rows for found in sheets):
            others += [f"{file.name} (no rows)" for file in members]
    return groups, others


def _head_of(file: RawFile, suffix: str) -> bytes:
    """Return what files of the same kind have alike: the columns' names, as far as a look says."""
    if suffix in SHEETS:
        return file.inner.encode()
    if suffix in (".json", ".jsonl", ".ndjson"):
        return b"{}".join(sorted(set(re.findall(rb'"([^"]+)"\s*:', _first_bytes(file)))))
    if suffix not in (".parquet", ".pq"):
        with open_bytes(file.path) as stream:
            return stream.readline(1 << 16)
    import pyarrow as pa
    from pyarrow import parquet

    try:
        return repr(parquet.read_schema(file.path).names).encode()
    except (pa.ArrowInvalid, OSError):
        return file.inner.encode()


def _first_bytes(file: RawFile) -> bytes:
    with open_bytes(file.path) as stream:
        return stream.readline(1 << 14)


def _glob(group: list[RawFile], files: list[RawFile]) -> str:
    """Return the pattern that names these files and no others, or all of their names."""
    inner = {file.inner for file in group}
    names = [file.name for file in group]
    stem, suffix = names[0], names[0]
    for name in names[1:]:
        stem = stem[
            : next((i for i, (a, b) in enumerate(zip(stem, name, strict=False)) if a != b), min(len(stem), len(name)))
        ]
        back = next(
            (i for i, (a, b) in enumerate(zip(suffix[::-1], name[::-1], strict=False)) if a != b),
            min(len(suffix), len(name)),
        )
        suffix = suffix[len(suffix) - back :]
    for pattern in ([*inner] if len(inner) == 1 else []) + [
        f"{stem}*{suffix}",
        f"*/{PurePosixPath(names[0]).name}",
        f"{stem.rpartition('/')[0]}/**/*{suffix}".lstrip("/"),
    ]:
        if [file.name for file in select_files(files, [pattern])] == names:
            return pattern
    return json.dumps(names) if len(names) > 1 else names[0]
