"""What files and their columns could be to a lender: identifiers, dates, amounts, the outcome, and what leaks it.

Judged by name and by value, from a `Sniffed` head. Guesses for a person to confirm; `pipeline/new_source.py` writes
them down with their reasons.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from features.tables import CONTRACTS, MONEY
from pipeline.raw import RawFile, open_bytes, select_files
from pipeline.sniff import Column, Sniffed, sniff

DATA = {
    ".csv",
    ".tsv",
    ".txt",
    ".dat",
    ".asc",
    ".data",
    ".parquet",
    ".pq",
    ".json",
    ".jsonl",
    ".ndjson",
    ".arff",
    ".xlsx",
    ".xlsm",
}

ID_END = r"(id|no|nr|num|number|key|code|ref|chkdgt)?$"
CUSTOMER = re.compile(
    r"^(customer|client|cust|borrower|applicant|member|user|person|company|firm|obligor|party|sk_?id_?curr|客户|客戶)"
    r".*?" + ID_END
)
ACCOUNT = re.compile(r"^(account|acct|acc)_?(id|no|nr|num|number)$")
CREDIT = re.compile(
    r"^(.*)?(loan|credit|contract|facility|deal|agreement|tradeline|sk_?id_?(prev|bureau))(?:.*?)" + ID_END
)
PLAIN_ID = re.compile(r"^(id|uid|key|编号|column0|index|row_?id)$")
OUTCOMES = (
    (r"^(target|label|outcome|class|y)$", 3), (r"default.*(payment|next|flag|ind)|^is_?default|^default(ed)?$|违约", 4),
    (r"serious_?dlq|dlq_?in|good_?bad|bad_?flag|^bad$|^good$|mis_?status|charged_?off$|bankrupt|delinquent$", 4),
    (r"^(loan_?)?status$|_flag$|^flag$", 1),
)  # fmt: skip
BAD = {
    "1",
    "bad",
    "default",
    "defaulted",
    "yes",
    "y",
    "true",
    "charged off",
    "chgoff",
    "bankrupt",
    "b",
    "late",
    "d",
    "违约",
    "坏",
}
GOOD = {
    "0",
    "good",
    "paid",
    "no",
    "n",
    "false",
    "fully paid",
    "p i f",
    "pif",
    "current",
    "ok",
    "non-default",
    "正常",
    "好",
}
DECIDED = re.compile(
    r"as_?of|decision|appl|approv|issue|creat|grant|origin|disburs|open|start|snapshot|observ|^date$|日期"
)
AFTERWARDS = re.compile(
    r"charge_?off|chg_?off|recover|write_?off|last_?pay|total_?(rec|pay|paid)|closed?_?date|close_?on|settle|collection|"
    r"loss|balance_?gross|final|end_?date|maturity|next_?pay|out_?prncp|hardship|repaid"
)
STATE = re.compile(r"status$|state$|^active$")  # of a credit: today's, and so not that of its opening
BIRTH = re.compile(r"birth|^dob$|出生")
AMOUNT = re.compile(r"amount|amt|value|sum|betrag|montant|importe|金额|总额")
DUE = re.compile(r"due|faellig|fällig|instal+ment.*date|schedul|到期")
PAID = re.compile(r"paid|payment.*date|pay_?date|received|entry_?payment|repaid")
BALANCE = re.compile(r"balance|outstanding|saldo|owed|exposure|余额")
LATE = re.compile(r"days_?past|dpd|days_?late|days_?overdue|delay|逾期天数")
LIMIT = re.compile(r"limit|ceiling")
LINES = tuple(name for name, spec in CONTRACTS["financials"].columns.items() if spec.type == MONEY)
PRINCIPAL = re.compile(
    r"principal|granted|loan_?amount|loanamount|^amount$|disbursement_?gross|gr_?appv|sum_insured|贷款金额"
)


@dataclass(frozen=True)
class Guess:
    """A column in a role, and what speaks for it."""

    column: str
    why: str
    sql: str = ""


def lowered(name: str) -> str:
    """Return a name for matching: words parted by `_`, lower case."""
    return re.sub(r"[^\w]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)).strip("_").lower()


def _squeezed(name: str) -> str:
    return lowered(name).replace("_", "")


def fits(pattern: re.Pattern[str], column: Column) -> bool:
    """Tell whether a column's name fits, its words parted or not."""
    return bool(pattern.search(lowered(column.name)) or pattern.search(_squeezed(column.name)))


def named(sniffed: Sniffed, pattern: re.Pattern[str], *kinds: str) -> Column | None:
    """Return the first column of one of the kinds whose name fits, or None."""
    return next((c for c in sniffed.columns if c.kind in kinds and fits(pattern, c)), None)


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
    if set(values) == {"0", "1"}:
        return column.name, "its name, and its values are 0 and 1 (taken as 1 = bad)"
    bad = sorted(value for low, value in values.items() if low in BAD)
    good = sorted(value for low, value in values.items() if low in GOOD)
    if not bad or not good:
        return "", ""
    quoted = '"' + column.name.replace('"', '""') + '"'

    def listed(texts: list[str]) -> str:
        return ", ".join("'" + text.replace("'", "''") + "'" for text in texts)

    rest = len(values) - len(bad) - len(good)
    why = f"its name, and its values: bad is {', '.join(bad)}, good is {', '.join(good)}"
    why += f", the other {rest} are unknown" if rest else ""
    return f"case when {quoted} in ({listed(bad)}) then 1 when {quoted} in ({listed(good)}) then 0 end", why


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
        if not suffixes or suffixes[-1] not in DATA or not file.path.stat().st_size:
            others.append(file.name)
            continue
        with open_bytes(file.path) as stream:
            first = stream.readline(1 << 16)
        text = suffixes[-1] not in (".parquet", ".pq", ".xlsx", ".xlsm")
        alike.setdefault((suffixes[-1], first if text else file.inner.encode()), []).append(file)
    groups = []
    for members in alike.values():
        chosen = [members[place] for place in sorted({0, len(members) // 3, 2 * len(members) // 3, len(members) - 1})]
        try:
            found = sniff(*chosen)
        except (ValueError, OSError, LookupError) as error:
            others += [f"{file.name} (unreadable: {type(error).__name__})" for file in members]
            continue
        if found.rows:
            groups.append(Group(members, found, _glob(members, files)))
        else:
            others += [f"{file.name} (no rows)" for file in members]
    return groups, others


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
    for pattern in ([*inner] if len(inner) == 1 else []) + [f"{stem}*{suffix}", f"*/{PurePosixPath(names[0]).name}"]:
        if [file.name for file in select_files(files, [pattern])] == names:
            return pattern
    return json.dumps(names) if len(names) > 1 else names[0]
