"""new-source: a first mapping from the files in data/raw/<name>/, each guess with its reason as a comment.

The draft parses, and for one flat file with an outcome column it runs as it stands. It is a start for a person, never
the truth: what it cannot know (currency, the one as_of of undated data, what was known when) is marked `CHECK`. An
existing mapping is never overwritten.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from features.errors import ConfigurationRefused, DataRefused, Problem
from features.mapping import parse_mapping, snake
from features.tables import CONTRACTS
from pipeline import roles
from pipeline.ingest import mapping_path
from pipeline.raw import list_files
from pipeline.roles import Group, grouped
from pipeline.sniff import Column

CHECK = "CHECK:"
LEAK = 0.97  # a column that alone tells the outcome so well was written after it


@dataclass
class Draft:
    """One block in the making: lines of YAML with comments."""

    table: str
    group: Group
    why: str
    columns: list[tuple[str, str, str]] = field(default_factory=list)  # canonical, SQL, why
    left: list[tuple[str, str]] = field(default_factory=list)  # columns left out, and why
    static: bool = False

    def used(self) -> set[str]:
        """Return the file's columns that some expression names."""
        text = " ".join(sql for _, sql, _ in self.columns)
        return {c.name for c in self.group.sniffed.columns if re.search(rf"(?<!\w){re.escape(c.name)}(?!\w)", text)}


def classify(group: Group, shared: str | None) -> Draft:
    """Return the block that a group of files seems to be; `shared` is the customer's column in the other files."""
    s = group.sniffed
    customer = next((c for c in s.columns if c.name == shared), None)
    if shared is None:
        customer = roles.identifier(s, roles.CUSTOMER) or roles.identifier(s, roles.ACCOUNT)
    credit = roles.identifier(s, roles.CREDIT)
    credit = None if credit is customer else credit
    dates = [c for c in s.columns if c.kind == "date" and not roles.fits(roles.BIRTH, c)]
    ended = roles.outcome(s)
    if ended is not None:
        return _observations(group, ended, customer, credit, dates)
    amount = roles.named(s, roles.AMOUNT, "number", "whole")
    due, paid = roles.named(s, roles.DUE, "date"), roles.named(s, roles.PAID, "date")
    balance = roles.named(s, roles.BALANCE, "number", "whole")
    if credit is not None and due is not None and amount is not None and not roles.unique(s, credit):
        draft = Draft("instalments", group, "a credit's identifier that repeats, a due date and an amount")
        draft.columns += [("credit_id", credit.name, "its name"), ("due_on", due.name, "its name, and dates"),
                          ("amount", amount.name, "its name")]  # fmt: skip
        if paid is not None and paid is not due:
            draft.columns.append(("paid_on", paid.name, "its name: the payment is split off"))
            money = next((c for c in s.columns if c.kind in ("number", "whole") and c is not amount
                          and re.search("paid|payment", roles.lowered(c.name))), None)  # fmt: skip
            draft.columns += [("amount_paid", money.name, "its name")] if money else []
        return draft
    if credit is not None and roles.unique(s, credit) and customer is not None:
        draft = Draft("credits", group, "an identifier of a credit that never repeats, and a customer's")
        draft.columns += [
            ("credit_id", credit.name, "its name, and unique"),
            ("customer_id", customer.name, "its name"),
        ]
        opened = _dated(dates)
        draft.columns += [("opened_on", opened.name, "its name, and dates")] if opened else []
        principal = roles.named(s, roles.PRINCIPAL, "number", "whole") or amount
        draft.columns += [("principal", principal.name, "its name")] if principal else []
        for column in s.columns:
            if column.name not in draft.used() and (
                roles.fits(roles.STATE, column) or roles.fits(roles.AFTERWARDS, column)
            ):
                draft.left.append((column.name, "its name sounds like something that was not known at opening"))
        return draft
    if credit is not None and dates and balance is not None:
        draft = Draft("statements", group, "a credit's identifier that repeats, a date and a balance")
        draft.columns += [("credit_id", credit.name, "its name"),
                          ("stated_on", (_dated(dates) or dates[0]).name, "its name, and dates"),
                          ("balance", balance.name, "its name")]  # fmt: skip
        for column, pattern in (("days_past_due", roles.LATE), ("credit_limit", roles.LIMIT)):
            fits = roles.named(s, pattern, "number", "whole")
            draft.columns += [(column, fits.name, "its name")] if fits else []
        return draft
    if customer is not None and dates and amount is not None and not roles.unique(s, customer):
        draft = Draft("transactions", group, "a customer's identifier that repeats, a date and an amount")
        own = next(
            (c for c in s.columns if roles.unique(s, c) and c.kind in ("whole", "text") and c is not customer), None
        )
        draft.columns += [("transaction_id", own.name, "it never repeats")] if own else []
        draft.columns += [("customer_id", customer.name, "its name"),
                          ("event_on", (_dated(dates) or dates[0]).name, "its name, and dates"),
                          ("amount", amount.name, f"its name; {CHECK} + must be money in and - money out")]  # fmt: skip
        return draft
    lines = {line: c for c in s.columns for line in roles.LINES if roles.lowered(c.name) == line}
    if customer is not None and dates and len(lines) >= 4:
        draft = Draft("financials", group, f"a customer's identifier, a date and {len(lines)} lines of its accounts")
        draft.columns += [("customer_id", customer.name, "its name"), ("period_end", dates[0].name, "dates")]
        if len(dates) > 1:
            draft.columns.append(("published_on", dates[1].name, f"the next date; {CHECK} known from then on"))
        draft.columns += [(line, column.name, "its name") for line, column in lines.items()]
        return draft
    if customer is not None and roles.nearly_unique(s, customer):
        draft = Draft("customers", group, "a customer's identifier that hardly ever repeats")
        draft.columns.append(("customer_id", customer.name, "its name, and nearly unique"))
        opened = _dated(dates)
        draft.columns += [("opened_on", opened.name, "its name, and dates")] if opened else []
        draft.static = opened is None
        return draft
    holder = customer or credit
    if holder is not None and dates:
        draft = Draft(_history(group), group, "an identifier and a date: a history of its own kind")
        draft.columns += [("customer_id" if holder is customer else "credit_id", holder.name, "its name"),
                          ("event_on", (_dated(dates) or dates[0]).name, "dates")]  # fmt: skip
        return draft
    return Draft("", group, "no customer's or credit's identifier, or no date, was found")


def _dated(dates: list[Column]) -> Column | None:
    """Return the date that a row is about, as its name says, or else the first that is filled."""
    full = [column for column in dates if column.filled]
    return next((column for column in full if roles.fits(roles.DECIDED, column)), full[0] if full else None)


def _history(group: Group) -> str:
    """Return a name for a generic history, from the file's."""
    name = snake(PurePosixPath(group.files[0].name).name.split(".")[0])
    return f"{name}_history" if name in CONTRACTS else name


def _observations(
    group: Group, ended: roles.Guess, customer: Column | None, credit: Column | None, dates: list[Column]
) -> Draft:
    """Return the block of a file that says how it ended: one row a decision."""
    s = group.sniffed
    draft = Draft("observations", group, f"the column {ended.column} says how it ended")
    decided = next((c for c in dates if c.filled == s.rows and roles.fits(roles.DECIDED, c)
                    and not roles.AFTERWARDS.search(roles.lowered(c.name))), None)  # fmt: skip
    plain = next((c for c in s.columns if roles.PLAIN_ID.search(roles.lowered(c.name))), None)
    choices = [c for c in (customer, plain, credit) if c is not None and c.filled == s.rows]
    chosen = next((c for c in choices if roles.unique(s, c)), customer if decided and customer in choices else None)
    if chosen is None:
        draft.columns.append(
            ("customer_id", "file_row", "no column names the customer once a row: the row's number does")
        )
    else:
        draft.columns.append(
            ("customer_id", chosen.name, "its name" + (", and unique" if roles.unique(s, chosen) else ""))
        )
    if decided is not None:
        draft.columns.append(
            ("as_of", decided.name, f"its name, and dates; {CHECK} the day of the decision, all else known by then")
        )
    draft.columns.append(("outcome", ended.sql if ended.sql != ended.column else ended.column, ended.why))
    bad = next((v for v in next(c for c in s.columns if c.name == ended.column).values if v.lower() in roles.BAD), "1")
    for column in s.columns:
        if column.name in draft.used():
            continue
        told = roles.tells(s, column, ended.column, bad)
        if roles.AFTERWARDS.search(roles.lowered(column.name)):
            draft.left.append((column.name, "its name sounds like something that was known only afterwards"))
        elif told >= LEAK:
            draft.left.append((column.name, f"alone it tells the outcome (AUC {told:.2f}): surely written afterwards"))
    return draft


def _attributes(draft: Draft) -> tuple[dict[str, str], dict[str, str]]:
    """Return numeric and categorical attributes of a block; what is no use as one goes to `left` with the reason."""
    contract = CONTRACTS.get(draft.table)
    taken = {"known_on", "customer_id", "credit_id", "event_on", *(contract.columns if contract else ())}
    numeric: dict[str, str] = {}
    categorical: dict[str, str] = {}
    left = {name for name, _ in draft.left}
    for column in draft.group.sniffed.columns:
        if column.name in draft.used() or column.name in left:
            continue
        base = snake(column.name)
        names = (base, *(f"{base}_{number}" for number in range(2, 1000)))
        name = next(n for n in names if n not in taken | set(numeric) | set(categorical))
        if column.kind in ("number", "whole") and not _identifying(column):
            numeric[name] = column.name
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
    words = roles.lowered(column.name)
    named = re.search(r"(id|key|zip|phone|ref)$|^column0$|(^|_)(no|nr|num|number)$", words) is not None
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
            and (roles.fits(roles.CUSTOMER, c) or roles.fits(roles.ACCOUNT, c))]  # fmt: skip
    shared = max(keys, key=keys.count, default=None) if len(groups) > 1 else None
    drafts = [classify(group, shared) for group in groups]
    seen = {d.table for d in drafts}
    if "observations" in seen:  # one file of decisions: the largest; the others become histories
        main = max((d for d in drafts if d.table == "observations"), key=lambda d: d.group.sniffed.rows)
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
    undated = not any(c.kind == "date" for d in drafts if d.table for c in d.group.sniffed.columns) or (
        "observations" in tables and not any(column == "as_of" for column, _, _ in tables["observations"][0].columns)
    )
    text = (
        "\n".join([*_head(source, undated=undated), *_tables(tables, undated=undated), *_rest(drafts, others)]) + "\n"
    )
    parse_mapping(text, str(mapping_path(source)))
    return text


def _head(source: str, *, undated: bool) -> Iterable[str]:
    """Yield the first lines."""
    yield "# yaml-language-server: $schema=mapping.schema.json"
    yield f"# A first draft from data/raw/{source}/: every guess with its reason; unknown is what says {CHECK[:-1]}."
    yield f"# Then: python -m pipeline check-source {source}"
    yield f"name: {source}"
    yield f"currency: USD # {CHECK} the files do not say"
    if undated:
        yield f"as_of: 2020-01-01 # {CHECK} no column says when: one date for all, its rows are known the day before"
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
