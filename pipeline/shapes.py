"""Which canonical table a group of files seems to be, and which of its columns play which part in it.

`classify` tries the shapes one after the other, the most telling first; each says why in words. Guesses alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from features.mapping import NAME, snake
from features.tables import CONTRACTS
from pipeline import roles, words
from pipeline.looks import Column, quoted
from pipeline.roles import Group
from pipeline.sniff import Sniffed

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
    bare: bool = False  # without attributes
    repeat: list[str] = field(default_factory=list)  # values of ${month}
    also: list[Draft] = field(default_factory=list)  # other tables of the same files

    def used(self) -> set[str]:
        """Return the file's columns that some expression names."""
        text = " ".join(sql for _, sql, _ in self.columns)
        text = " ".join(text.replace("${month}", month) for month in self.repeat) or text
        return {c.name for c in self.group.sniffed.columns if re.search(rf"(?<!\w){re.escape(c.name)}(?!\w)", text)}


def classify(group: Group, shared: str | None, account: str | None = None) -> Draft:
    """Return the block that a group of files seems to be.

    `shared` is the customer's column in the other files, `account` a credit's where it is named like an account.
    """
    s = group.sniffed
    customer = next((c for c in s.columns if shared and roles.lowered(c.name) == roles.lowered(shared)), None)
    if customer is None and (shared is None or account is None):
        customer = roles.identifier(s, words.CUSTOMER) or (None if account else roles.identifier(s, words.ACCOUNT))
    credit = next((c for c in s.columns if c.name == account), None) or roles.identifier(s, words.CREDIT)
    credit = None if credit is customer else credit
    dates = [c for c in s.columns if c.kind == "date" and not roles.fits(words.BIRTH, c)]
    ended = roles.outcome(s)
    repeats = [c for c in (customer, credit) if c and re.search(words.ID_PART, roles.lowered(c.name))]
    if ended is not None and (not repeats or any(roles.unique(s, c) for c in repeats) or _decision(s, dates)):
        return _observations(group, ended, customer, credit, dates)
    amount = roles.named(s, words.AMOUNT, "number", "whole")
    due, paid = roles.named(s, words.DUE, "date"), roles.named(s, words.PAID, "date")
    balance = roles.named(s, words.BALANCE, "number", "whole")
    special = _opinion(group, customer, dates) or _invoices(group, customer, due, paid, amount)
    if special is not None:
        return special
    if credit is not None and due is not None and amount is not None and not roles.unique(s, credit):
        draft = Draft("instalments", group, "a credit's identifier that repeats, a due date and an amount")
        draft.columns += [("credit_id", credit.name, "its name"), ("due_on", due.said, "its name, and dates"),
                          ("amount", amount.said, "its name")]  # fmt: skip
        if paid is not None and paid is not due:
            draft.columns.append(("paid_on", paid.said, "its name: the payment is split off"))
            money = next((c for c in s.columns if c.kind in ("number", "whole") and c is not amount
                          and re.search("paid|payment", roles.lowered(c.name))), None)  # fmt: skip
            draft.columns += [("amount_paid", money.said, "its name")] if money else []
        return draft
    if credit is not None and roles.unique(s, credit) and customer is not None:
        draft = Draft("credits", group, "an identifier of a credit that never repeats, and a customer's")
        draft.columns += [
            ("credit_id", credit.name, "its name, and unique"),
            ("customer_id", customer.name, "its name"),
        ]
        opened = _dated(dates)
        draft.columns += [("opened_on", opened.said, "its name, and dates")] if opened else []
        principal = roles.named(s, words.PRINCIPAL, "number", "whole") or amount
        draft.columns += [("principal", principal.said, "its name")] if principal else []
        for column in s.columns:
            if column.name not in draft.used() and (
                roles.fits(words.STATE, column) or roles.fits(words.AFTERWARDS, column)
            ):
                draft.left.append((column.name, "its name sounds like something that was not known at opening"))
        monthly = _months(group, credit)
        if monthly is not None:
            draft.also = [monthly]
            draft.left += [(name, "a month's state: see statements") for name in sorted(monthly.used())
                           if name not in draft.used()]  # fmt: skip
        return draft
    if credit is not None and dates and balance is not None:
        draft = Draft("statements", group, "a credit's identifier that repeats, a date and a balance")
        draft.columns += [("credit_id", credit.name, "its name"),
                          ("stated_on", (_dated(dates) or dates[0]).said, "its name, and dates"),
                          ("balance", balance.said, "its name")]  # fmt: skip
        for column, pattern in (("days_past_due", words.LATE), ("credit_limit", words.LIMIT)):
            fits = roles.named(s, pattern, "number", "whole")
            draft.columns += [(column, fits.said, "its name")] if fits else []
        return draft
    if customer is not None and dates and amount is not None and not roles.unique(s, customer):
        draft = Draft("transactions", group, "a customer's identifier that repeats, a date and an amount")
        own = next(
            (c for c in s.columns if roles.unique(s, c) and c.kind in ("whole", "text") and c is not customer), None
        )
        draft.columns += [("transaction_id", own.name, "it never repeats")] if own else []
        draft.columns += [("customer_id", customer.name, "its name"),
                          ("event_on", (_dated(dates) or dates[0]).said, "its name, and dates"),
                          ("amount", amount.said, f"its name; {CHECK} + must be money in and - money out")]  # fmt: skip
        return draft
    lines = roles.lines_of(s)
    if customer is not None and dates and len(lines) >= 4:
        draft = Draft("financials", group, f"a customer's identifier, a date and {len(lines)} lines of its accounts")
        ends = roles.named(s, words.PERIOD_END, "date") or dates[0]
        filed = next((c for c in dates if c is not ends), None)
        draft.columns += [("customer_id", customer.name, "its name"), ("period_end", ends.said, "dates")]
        if filed is not None:
            draft.columns.append(("published_on", filed.said, f"another date; {CHECK} known from then on"))
        draft.columns += [(line, column.name, "its name") for line, column in lines.items()]
        return draft
    if customer is not None and roles.nearly_unique(s, customer):
        draft = Draft("customers", group, "a customer's identifier that hardly ever repeats")
        draft.columns.append(("customer_id", customer.name, "its name, and nearly unique"))
        opened = _dated(dates)
        draft.columns += [("opened_on", opened.said, "its name, and dates")] if opened else []
        for canonical, pattern in words.OF_CUSTOMER.items():
            fitting = next((c for c in s.columns if c.kind == "text" and roles.fits(pattern, c)
                            and c.name not in draft.used()), None)  # fmt: skip
            draft.columns += [(canonical, fitting.name, "its name")] if fitting else []
        draft.static = opened is None
        return draft
    holder = customer or credit
    if holder is not None and dates:
        draft = Draft(_history(group), group, "an identifier and a date: a history of its own kind")
        draft.columns += [("customer_id" if holder is customer else "credit_id", holder.name, "its name"),
                          ("event_on", (_dated(dates) or dates[0]).said, "dates")]  # fmt: skip
        return draft
    return Draft("", group, "no customer's or credit's identifier, or no date, was found")


def _decision(sniffed: Sniffed, dates: list[Column]) -> Column | None:
    """Return the date of the decision: always there, named so, and not of what came afterwards."""
    return next((c for c in dates if c.filled == sniffed.rows and roles.fits(words.DECIDED, c)
                 and not words.AFTERWARDS.search(roles.lowered(c.name))), None)  # fmt: skip


def _opinion(group: Group, customer: Column | None, dates: list[Column]) -> Draft | None:
    """Return the block of what is said of customers (mentions, standings) or of industries, by the measures' names."""
    s = group.sniffed
    for table, least in (("mentions", 1), ("standings", 2), ("industries", 2)):
        found = {
            name: next((c for c in s.columns if c.kind in ("number", "whole") and roles.fits(pattern, c)), None)
            for name, pattern in words.MEASURES[table].items()
        }
        given = {name: column for name, column in found.items() if column is not None}
        named = customer if table != "industries" else roles.named(s, words.INDUSTRY, "text", "whole")
        if len(given) < least or not dates or named is None or (table == "industries" and customer is not None):
            continue
        draft = Draft(table, group, f"a date and {', '.join(column.name for column in given.values())}")
        dated = "event_on" if table == "mentions" else "period_start"
        holder = "industry" if table == "industries" else "customer_id"
        draft.columns += [(holder, named.name, "its name"), (dated, (_dated(dates) or dates[0]).said, "dates")]
        for name, column in given.items():
            parts = name in ("market_share", "default_rate", "growth") and (column.high or 0) > 1
            sql = f"{quoted(column.name)} / 100" if parts else column.name
            draft.columns.append((name, sql, "its name" + (", and in percent by its values" if parts else "")))
        if table == "mentions":
            source = roles.named(s, words.MEDIUM, "text")
            draft.columns += [("source", source.name, "its name")] if source is not None else []
        return draft
    return None


def _invoices(
    group: Group, customer: Column | None, due: Column | None, paid: Column | None, amount: Column | None
) -> Draft | None:
    """Return the blocks of a file with an invoice a line: each is a credit with one instalment, and its payment."""
    s = group.sniffed
    own = next((c for c in s.columns if roles.unique(s, c) and c.kind in ("whole", "text") and c is not customer
                and roles.fits(words.INVOICE, c)), None)  # fmt: skip
    if own is None or customer is None or due is None or amount is None or due is paid:
        return None
    issued = next(
        (c for c in s.columns if c.kind == "date" and roles.fits(words.ISSUED, c) and c not in (due, paid)), None
    )
    draft = Draft("instalments", group, "an invoice's number that never repeats, a customer, a due date and an amount")
    draft.columns += [("credit_id", own.name, "each invoice is a credit of its own"), ("due_on", due.said, "its name"),
                      ("amount", amount.said, "its name")]  # fmt: skip
    draft.columns += [("paid_on", paid.said, "its name: the payment is split off")] if paid is not None else []
    credit = Draft("credits", group, "an invoice is trade credit until it is paid")
    credit.columns += [("credit_id", own.name, "as below"), ("customer_id", customer.name, "its name"),
                       ("product", "'invoice'", "a word for it"), ("principal", amount.said, "its name")]  # fmt: skip
    if issued is not None:
        draft.columns.append(("known_on", issued.said, "known when it was issued"))
        credit.columns += [
            ("opened_on", issued.said, "its name, and dates"),
            ("term_months", "1", f"{CHECK} without a term it stays open after it is paid"),
        ]
    credit.bare = draft.bare = True
    draft.also = [credit]
    return draft


def _months(group: Group, credit: Column) -> Draft | None:
    """Return statements of a file with a column a month (`dpd_202301`, `dpd_202302`, ...), or None."""
    families: dict[str, set[str]] = {}
    for column in group.sniffed.columns:
        match = re.fullmatch(r"(\w*?[A-Za-z]_?)((?:19|20)\d{2}(?:0[1-9]|1[0-2]))", column.name)
        if match and column.kind in ("number", "whole"):
            families.setdefault(match[1], set()).add(match[2])
    draft = Draft("statements", group, "a column a month: one row for each", bare=True)
    draft.columns = [
        ("credit_id", credit.name, "its name"),
        ("stated_on", "last_day(strptime('${month}', '%Y%m'))", "the end of the month that is named"),
    ]
    for canonical, pattern in (
        ("days_past_due", words.LATE),
        ("balance", words.BALANCE),
        ("credit_limit", words.LIMIT),
    ):
        stem = next((stem for stem, months in families.items()
                     if len(months) > 2 and pattern.search(roles.lowered(stem))), None)  # fmt: skip
        if stem is not None and (not draft.repeat or set(draft.repeat) == families[stem]):
            draft.repeat = sorted(families[stem])
            draft.columns.append((canonical, f"{stem}${{month}}", "its name"))
    return draft if draft.repeat else None


def _dated(dates: list[Column]) -> Column | None:
    """Return the date that a row is about, as its name says, or else the first that is filled."""
    full = [column for column in dates if column.filled]
    return next((column for column in full if roles.fits(words.DECIDED, column)), full[0] if full else None)


def _history(group: Group) -> str:
    """Return a name for a generic history, from the file's."""
    path = PurePosixPath(group.files[0].name)
    plain = [part for part in path.parts[:-1] if "=" not in part and not re.match(r"\d", part)]
    named = re.match(r"(?i)(part|data|chunk|file|\d)", path.name) is None or not plain
    name = snake(re.sub(r"[_-]?\d+$", "", path.name.split(".")[0]) or "history") if named else snake(plain[-1])
    name = name if NAME.fullmatch(name) else "history"
    return f"{name}_history" if name in CONTRACTS else name


def _observations(
    group: Group, ended: roles.Guess, customer: Column | None, credit: Column | None, dates: list[Column]
) -> Draft:
    """Return the block of a file that says how it ended: one row a decision."""
    s = group.sniffed
    draft = Draft("observations", group, f"the column {ended.column} says how it ended")
    decided = _decision(s, dates)
    plain = next((c for c in s.columns if words.PLAIN_ID.search(roles.lowered(c.name))), None)
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
            ("as_of", decided.said, f"its name, and dates; {CHECK} the day of the decision, all else known by then")
        )
    draft.columns.append(("outcome", ended.sql if ended.sql != ended.column else ended.column, ended.why))
    bad = next((v for v in next(c for c in s.columns if c.name == ended.column).values if v.lower() in words.BAD), "1")
    for column in s.columns:
        if column.name in draft.used():
            continue
        told = roles.tells(s, column, ended.column, bad)
        if words.AFTERWARDS.search(roles.lowered(column.name)):
            draft.left.append((column.name, "its name sounds like something that was known only afterwards"))
        elif told >= LEAK:
            draft.left.append((column.name, f"alone it tells the outcome (AUC {told:.2f}): surely written afterwards"))
    return draft
