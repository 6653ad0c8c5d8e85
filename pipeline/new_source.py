"""new-source: a first mapping from the files in data/raw/<name>/, each guess with its reason as a comment.

The draft parses, and for one flat file with an outcome column it runs as it stands. It is a start for a person, never
the truth: what it cannot know (currency, the one as_of of undated data, what was known when) is marked `CHECK`. An
existing mapping is never overwritten.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Iterable
from typing import Any

from features.errors import ConfigurationRefused, DataRefused, Problem
from features.mapping import parse_mapping, snake
from features.tables import CONTRACTS
from pipeline import roles, words
from pipeline.ingest import mapping_path
from pipeline.looks import RELATIVE, Column
from pipeline.raw import list_files
from pipeline.roles import grouped
from pipeline.shapes import CHECK, Draft, classify

FUTURE = 2090  # dates from there on stand for none
SIGNS = {"€": "EUR", "$": "USD", "£": "GBP", "¥": "CNY", "₹": "INR"}


def _attributes(draft: Draft) -> tuple[dict[str, str], dict[str, str]]:
    """Return numeric and categorical attributes of a block; what is no use as one goes to `left` with the reason."""
    contract = CONTRACTS.get(draft.table)
    taken = {"known_on", "customer_id", "credit_id", "event_on", *(contract.columns if contract else ())}
    numeric: dict[str, str] = {}
    categorical: dict[str, str] = {}
    left = {name for name, _ in draft.left}
    for column in [] if draft.bare else draft.group.sniffed.columns:
        if column.name in draft.used() or column.name in left:
            continue
        base = snake(column.name)
        names = (base, *(f"{base}_{number}" for number in range(2, 1000)))
        name = next(n for n in names if n not in taken | set(numeric) | set(categorical))
        if column.kind in ("number", "whole") and not _identifying(column):
            numeric[name] = column.said
        elif column.kind == "text" and column.different == 1 and draft.group.sniffed.rows > 50:
            draft.left.append((column.name, "the same in all rows looked at"))
        elif column.kind == "text" and column.different <= max(50, column.filled / 20):
            categorical[name] = column.name
        elif column.kind == "empty":
            draft.left.append((column.name, "empty in the rows looked at"))
        elif column.kind == "date":
            draft.left.append((column.name, "a date: make a number of it, or the date of another fact"))
        else:
            draft.left.append((column.name, "an identifier or free text"))
    return numeric, categorical


def _identifying(column: Column) -> bool:
    """Tell whether a number is a name in disguise."""
    called = roles.lowered(column.name)
    named = re.search(r"(id|key|zip|phone|ref)$|^column0$|(^|_)(no|nr|num|number)$", called) is not None
    return named and column.kind == "whole" and column.different > 50 and column.different > 0.5 * column.filled


def _yaml(text: str) -> str:
    """Return a text as a YAML scalar."""
    plain = re.fullmatch(r"[A-Za-z_][\w./*-]*", text) and text.lower() not in (
        "true",
        "false",
        "null",
        "yes",
        "no",
        "on",
        "off",
        "y",
        "n",
    )
    return text if plain else "'" + text.replace("'", "''") + "'"


def _flow(form: dict[str, Any]) -> str:
    """Return a format as one line of YAML (JSON is YAML)."""
    return "{" + ", ".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in form.items()) + "}"


def _block(draft: Draft, *, listed: bool, undated: bool) -> Iterable[str]:
    """Yield the lines of one block."""
    lead, deep = ("    - ", "      ") if listed else ("    ", "    ")
    group = draft.group
    rows = f"{group.sniffed.rows:,} rows" + ("" if group.sniffed.whole else " and more")
    yield f"{deep}# {draft.why} ({rows})"
    yield f"{lead}files: {group.glob if group.glob.startswith('[') else _yaml(group.glob)}"
    for why in group.sniffed.why:
        yield f"{deep}# {why}"
    if group.sniffed.form:
        yield f"{deep}format: {_flow(group.sniffed.form)}"
    yield f"{deep}columns:"
    for column, sql, why in draft.columns:
        yield f"{deep}  # {column}: {why}"
        yield f"{deep}  {column}: {_yaml(sql)}"
    if draft.static and not undated:
        yield f"{deep}static: true # {CHECK} no date says since when this is known, so it must never change"
    numeric, categorical = _attributes(draft)
    if numeric or categorical:
        yield f"{deep}attributes: # {CHECK} all of this known at the date of the row, or it leaks"
    for kind, attributes in (("numeric", numeric), ("categorical", categorical)):
        if attributes:
            yield f"{deep}  {kind}:"
            yield from (f"{deep}    {name}: {_yaml(column)}" for name, column in attributes.items())
    if draft.repeat:
        yield f"{deep}repeat: [{', '.join(f'{{month: {month}}}' for month in draft.repeat)}]"
    for column, why in draft.left:
        yield f"{deep}# left out: {column}: {why}"


def draft(source: str) -> str:
    """Return the YAML of a first mapping of `source`; refuses (exit code 2) a folder without readable files."""
    groups, others = grouped(list_files(source))
    if not groups:
        raise DataRefused(
            Problem(f"data/raw/{source}", "files of rows (csv, parquet, json lines, arff, xlsx)", "none",
                    "Put the files there.")
        )  # fmt: skip
    names = [c.name for group in groups for c in group.sniffed.columns]
    keys = [c.name for group in groups for c in group.sniffed.columns if c.kind in ("whole", "text") and c.different > 2
            and (roles.fits(words.CUSTOMER, c) or roles.fits(words.ACCOUNT, c))]  # fmt: skip
    both = [(customer.name, account.name) for customer, account in
            ((roles.identifier(g.sniffed, words.CUSTOMER), roles.identifier(g.sniffed, words.ACCOUNT)) for g in groups)
            if customer is not None and account is not None and customer is not account]  # fmt: skip
    lent = [c for c in (roles.identifier(g.sniffed, words.CREDIT) for g in groups) if c is not None
               and re.search(words.ID_PART, roles.lowered(c.name))]  # fmt: skip
    if both and len(groups) > 1 and not lent:  # a file that names a customer and an account: the account is a credit
        shared, account = both[0]
    else:
        shared, account = (max(keys, key=keys.count, default=None) if len(groups) > 1 else None), None
    drafts = [each for group in groups for each in _with_also(classify(group, shared, account))]
    seen = {d.table for d in drafts}
    if "observations" in seen:  # one file of decisions: the largest that names its customers; the others are told
        main = max((d for d in drafts if d.table == "observations"),
                   key=lambda d: (d.columns[0][1] != "file_row", d.group.sniffed.rows))  # fmt: skip
        for place, other in enumerate(drafts):
            if other.table == "observations" and other is not main:
                drafts[place] = Draft("", other.group, f"another outcome beside that of {main.group.files[0].name}")
    tables: dict[str, list[Draft]] = {}
    for each in drafts:
        if each.table:
            tables.setdefault(each.table, []).append(each)
    if not tables:
        raise DataRefused(
            Problem(f"data/raw/{source}", "a file with an outcome, or with a customer's identifier and dates",
                    f"none; the columns are {', '.join(dict.fromkeys(names))[:300]}", "Write the mapping by hand.")
        )  # fmt: skip
    dates = [c for d in drafts if d.table for c in d.group.sniffed.columns if c.kind == "date"]
    undated = not any(c.dates or "Q" in c.sql or "right(" in c.sql for c in dates) or (
        "observations" in tables and not any(column == "as_of" for column, _, _ in tables["observations"][0].columns)
    )
    newest = max((c.newest for c in dates if c.newest and c.newest.year < FUTURE), default=None)
    day = (newest.replace(day=28) + dt.timedelta(days=4)).replace(day=1) if newest else dt.date(2020, 1, 1)
    for each in drafts:
        each.columns = [(name, sql.replace(RELATIVE, f"date '{day}'"), why) for name, sql, why in each.columns]
    lines = [*_head(source, drafts, day if undated else None, newest), *_tables(tables, undated=undated),
             *_rest(drafts, others)]  # fmt: skip
    text = "\n".join(lines) + "\n"
    parse_mapping(text, str(mapping_path(source)))
    return text


def _with_also(first: Draft) -> list[Draft]:
    """Return a block and those of other tables from the same files."""
    return [*first.also, first]


def _currency(drafts: list[Draft]) -> tuple[str, str]:
    """Return the currency and what speaks for it."""
    columns = [
        c for d in drafts for c in d.group.sniffed.columns if re.search(r"(?i)currency|^ccy$|waehrung|币种", c.name)
    ]
    found = {value for c in columns for value in c.values if re.fullmatch(r"[A-Z]{3}", value)}
    if len(found) == 1:
        return found.pop(), f"the column {columns[0].name} says so"
    if found:
        return min(found), f"{CHECK} amounts are in {', '.join(sorted(found))}: convert them (an asof join with rates)"
    signs = {sign for d in drafts for sign in d.group.sniffed.form.get("strip", "") if sign in SIGNS}
    if signs:
        return SIGNS[min(signs)], f"{CHECK} amounts are written with {min(signs)}"
    return "USD", f"{CHECK} the files do not say"


def _head(source: str, drafts: list[Draft], as_of: dt.date | None, newest: dt.date | None) -> Iterable[str]:
    """Yield the first lines."""
    yield "# yaml-language-server: $schema=mapping.schema.json"
    yield f"# A first draft from data/raw/{source}/: every guess with its reason; unknown is what says {CHECK[:-1]}."
    yield f"# Then: python -m pipeline check-source {source}"
    yield f"name: {source}"
    currency, why = _currency(drafts)
    yield f"currency: {currency} # {why}"
    if as_of:
        last = f"the newest date in the rows looked at is {newest}; " if newest else ""
        yield f"as_of: {as_of} # {CHECK} no column dates the decisions: {last}what has no date is known the day before"
    yield "tables:"


def _tables(tables: dict[str, list[Draft]], *, undated: bool) -> Iterable[str]:
    """Yield the tables."""
    for table, drafts in sorted(tables.items(), key=lambda pair: (pair[0] != "customers", pair[0])):
        yield f"  {table}:"
        for each in drafts:
            yield from _block(each, listed=len(drafts) > 1, undated=undated)
        yield ""


def _rest(drafts: list[Draft], others: list[str]) -> Iterable[str]:
    """Yield what was not mapped."""
    for each in drafts:
        if not each.table:
            columns = ", ".join(column.name for column in each.group.sniffed.columns)
            yield f"# not mapped: {each.group.glob}: {each.why}; its columns: {columns[:200]}"
    if not any(each.table in ("observations", "credits") for each in drafts):
        yield "# No outcome column and no credits were found: map `observations` or `credits` to judge somebody."
    if others:
        yield f"# not read: {', '.join(others[:20])}"


def write(source: str) -> int:
    """Write the draft to data/sources/<source>.yaml; refuse (exit code 4) where a mapping stands already."""
    path = mapping_path(source)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", source):
        raise ConfigurationRefused(
            Problem("the source's name", "letters, digits, _ and -", "other characters", "Choose another name.")
        )
    if path.exists():
        raise ConfigurationRefused(
            Problem(str(path), "a name without a mapping", "a mapping", "Move it away, or choose another name.")
        )
    text = draft(source)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("x", encoding="utf-8") as out:
        out.write(text)
    marks = text.count(CHECK) - 1
    print(f"{path}: written, {text.count(chr(10))} lines, {marks} of them to check.")
    print(f"Read it, then: python -m pipeline check-source {source}")
    return 0
