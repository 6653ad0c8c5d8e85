"""What was read of a CRM as files of a delivery: worked out by the engine, every record accounted for once.

A record whose content is what was delivered of it before is left out: a synchronisation touches every record, and none
of them says anything new for it.
"""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from features.expressions import name, quote
from models.contacts import OUTCOMES, STATES
from pipeline.sinks.interface import Connector
from pipeline.sinks.mapping import Mapping, Pull, Read

ACCOUNT = ("kind", "industry", "region", "segment", "owner", "credit_line")  # always columns of the file, and others
STANDING = ("market_share", "brand", "product_uniqueness", "relationship")
LEFT_OUT = {  # what becomes of a record that is not delivered -> what to do about it
    "two_records": "Several records have this customer's key: merge them in the CRM, then pull again.",
    "without_key": "Fill in the customer's key.",
    "without_date": "The field `pull.modified` holds no time: correct it in the mapping.",
    "without_customer": "Its account has no key, or is not visible to the user of the token.",
}


@dataclass(frozen=True)
class Delivery:
    """The files of a delivery, tables of text, and what is noted of it."""

    files: dict[str, pa.Table]
    counts: dict[str, dict[str, int]]  # object -> read, and what became of them
    left_out: pa.Table  # object, record_id, code, message
    delivered: pa.Table  # as `gathered.PULLED`
    gone: pa.Table  # object, record_id
    waiting: pa.Table  # object, record_id, record
    newest: dict[str, int]  # object -> the newest modification that was read, milliseconds


class _Desk:
    """The engine with what was read, what was delivered before, and what is listed there."""

    def __init__(
        self, mapping: Mapping, pull: Pull, connector: Connector, tables: dict[str, pa.Table], found_on: dt.date,
        complete: bool,
    ) -> None:  # fmt: skip
        self.mapping, self.pull, self._connector, self.found_on = mapping, pull, connector, found_on
        self.complete = complete
        self.engine = duckdb.connect()
        self.engine.execute("set threads = 2; set memory_limit = '1GB'; set TimeZone = 'UTC'")
        for table, rows in tables.items():
            self.engine.register(f"given_{table}", rows)
            self.engine.execute(f"create temp table {table} as select * from given_{table}")
        self.engine.execute("alter table raw alter record type json")

    def text(self, read: Read) -> str:
        """Return the SQL of a field's text: the part of a lookup, of a list its first; null where it is empty."""
        value = f"json_extract(record, {quote('$.' + json.dumps(read.field))})"
        first = f"case json_type({value}) when 'ARRAY' then json_extract({value}, '$[0]') else {value} end"
        part = quote("$." + json.dumps(read.part))
        found = f"case json_type({first}) when 'OBJECT' then {first} ->> {part} else {first} ->> '$' end"
        return f"nullif(trim({found}), '')"

    def value(self, read: Read | None) -> str:
        """Return the SQL of a field's value as the delivery's text."""
        if read is None:
            return "cast(null as varchar)"
        text = self.text(read)
        if read.kind == "number":
            return f"cast(round(try_cast({text} as double) * {read.scale!r}, 9) as varchar)"
        if read.kind == "date":
            return f"cast({self._connector.day(text)} as varchar)"
        if not read.values:
            return text
        cases = " ".join(f"when {quote(theirs)} then {quote(ours)}" for theirs, ours in read.values.items())
        return f"case {text} {cases} else {text} end"

    def known(self, read: Read | None, words: tuple[str, ...]) -> str:
        """Return the SQL of a field's value where it is one of our words, else null."""
        value = self.value(read)
        return f"case when {value} in ({', '.join(map(quote, words))}) then {value} end"

    def base(self, of: str, modified: str) -> str:
        """Return the SQL of what every record has: identifiers, when it was modified, whether it was given up."""
        when = self.text(Read(field=modified))
        return (
            f"record_id, {self._connector.moment(when)} as modified, {self._connector.day(when)} as known_on, "
            f"{self._connector.gone('record')} or (raw.record_id not in (select record_id from listed where object = "
            f"{quote(of)}) and {str(self.complete).lower()}) as gone"
        )

    def run(self, sql: str) -> None:
        """Execute a statement."""
        self.engine.execute(sql)

    def table(self, sql: str) -> pa.Table:
        """Return rows as text."""
        found = self.engine.execute(sql).to_arrow_table()
        return found.cast(pa.schema([(column, pa.string()) for column in found.column_names]))

    def counted(self, table: str) -> dict[str, int]:
        """Return how many records of a judged table have which fate."""
        rows = self.engine.execute(f"select fate, count(*) from {table} group by 1 order by 1").fetchall()
        return {"read": sum(int(n) for _, n in rows), **{str(fate): int(n) for fate, n in rows}}

    def unreadable(self, of: str, reads: list[Read]) -> int:
        """Return how many values that should be numbers or days are neither."""
        parts = [f"({self.text(read)} is not null and {self.value(read)} is null)::int" for read in reads
                 if read.kind != "text"]  # fmt: skip
        total = " + ".join(parts) or "0"
        row = self.engine.execute(f"select coalesce(sum({total}), 0) from raw where object = {quote(of)}").fetchone()
        return int(row[0]) if row else 0


def composed(
    mapping: Mapping, pull: Pull, connector: Connector, tables: dict[str, pa.Table], found_on: dt.date,
    *, complete: bool,
) -> Delivery:  # fmt: skip
    """Return the delivery of what was read.

    tables: `raw` (object, record_id, record), `pulled`, `counted` and `listed` as `gathered` returns them. found_on:
    the day from which it is known that a record is gone. complete: all records there are among `listed`.
    """
    desk = _Desk(mapping, pull, connector, tables, found_on, complete)
    _judge_accounts(desk)
    files, counts = _account_files(desk), {mapping.object: desk.counted("accounts")}
    bad = desk.unreadable(mapping.object, [*pull.accounts.values(), *pull.standings.values()])
    counts[mapping.object] |= {"unreadable_values": bad} if bad else {}
    if pull.contacts is not None:
        _judge_contacts(desk)
        files["crm_contacts.csv"] = _contact_file(desk)
        of = pull.contacts.object
        counts[of] = desk.counted("contacts")
        unknown = desk.engine.execute(
            "select count(*) from contacts where state is null and fate in ('new', 'changed')"
        )
        unsaid = int((unknown.fetchone() or [0])[0])
        counts[of] |= {"state_unknown": unsaid} if unsaid else {}
    judged = ["accounts"] + (["contacts"] if pull.contacts is not None else [])
    vanished = _vanished(desk)
    files["crm_deleted.csv"] = vanished
    for of, said in counts.items():
        lost = vanished["object"].to_pylist().count(of)
        said.update({"gone_since": lost} if lost else {})
    return Delivery(
        {file: rows for file, rows in files.items() if rows.num_rows},
        counts,
        desk.table(
            f"select object, record_id, upper(fate) as code, case fate {_messages()} end as message from "
            f"({' union all '.join(f'select object, record_id, fate from {each}' for each in judged)}) "
            f"where fate in ({', '.join(map(quote, LEFT_OUT))}) order by all"
        ),
        desk.table(" union all ".join(_noted(each) for each in judged) + " order by 1, 2"),
        vanished.select(["object", "record_id"]),
        desk.table(
            "select object, record_id, cast(record as varchar) as record from raw semi join ("
            + " union all ".join(f"select object, record_id from {each} where fate in ('two_records', "
                                 "'without_customer')" for each in judged)
            + ") using (object, record_id) order by 1, 2"
        ),
        {str(of): int(ms) for of, ms in desk.engine.execute(
            " union all ".join(f"select object, max(modified) from {each} group by 1 having max(modified) is not null"
                               for each in judged)).fetchall()},
    )  # fmt: skip


def _messages() -> str:
    return " ".join(f"when {quote(fate)} then {quote(said)}" for fate, said in LEFT_OUT.items())


def _noted(table: str) -> str:
    return (
        "select object, record_id, customer_id, digest, second_digest, cast(version as varchar) as version "
        f"from {table} where fate in ('new', 'changed')"
    )


def _judge_accounts(desk: _Desk) -> None:
    """Make the table `accounts`: every record that was read, its columns and its fate."""
    pull, of = desk.pull, quote(desk.mapping.object)
    columns = {
        column: desk.value(pull.accounts.get(column)) for column in (*ACCOUNT, *sorted({*pull.accounts} - {*ACCOUNT}))
    }
    standing = {column: desk.value(pull.standings.get(column)) for column in STANDING}
    selected = ", ".join(f"{sql} as {name(column)}" for column, sql in {**columns, **standing}.items())
    own, second = (", ".join(f"r.{name(column)}" for column in each) for each in (columns, standing))
    key = desk.text(Read(field=desk.mapping.key.field))
    desk.run(
        f"create temp table read_accounts as select {of} as object, {key} as customer_id, {selected}, "
        f"{desk.base(desk.mapping.object, pull.modified)} from raw where object = {of}"
    )
    desk.run(
        "create temp table held_keys as select record_id, lower(customer_id) as low from read_accounts where not gone "
        f"and customer_id is not null union all select p.record_id, lower(p.customer_id) from pulled p where object = "
        f"{of} and record_id not in (select record_id from read_accounts) and "
        + ("record_id in (select record_id from listed where object = " + of + ")" if desk.complete else "true")
    )
    desk.run(
        "create temp table accounts as select *, case when gone then 'deleted' when customer_id is null then "
        "'without_key' when known_on is null or modified is null then 'without_date' when several > 1 then "
        "'two_records' when was is null then 'new' when digest = was and second_digest = second_was then 'unchanged' "
        "else 'changed' end as fate, 0 as version from (select r.*, "
        f"sha256(cast(json_array(r.customer_id, {own}) as varchar)) as digest, "
        f"sha256(cast(json_array(r.customer_id, {second}) as varchar)) as second_digest, "
        "coalesce(several, 0) as several, p.digest as was, p.second_digest as second_was from read_accounts r "
        "left join (select low, count(*) as several from held_keys group by 1) k on k.low = lower(r.customer_id) "
        f"left join (select * from pulled where object = {of}) p using (record_id)) judged"
    )


def _account_files(desk: _Desk) -> dict[str, pa.Table]:
    """Return the accounts and the standings that are new or changed."""
    others = sorted({*desk.pull.accounts} - {*ACCOUNT})
    own = ", ".join(map(name, (*ACCOUNT, *others)))
    filled = " or ".join(f"{name(column)} is not null" for column in STANDING)
    order = "order by customer_id, known_on, record_id"
    return {
        "crm_accounts.csv": desk.table(
            f"select customer_id, record_id, known_on, {own} from accounts where fate = 'new' or (fate = 'changed' "
            f"and digest is distinct from was) {order}"
        ),
        "crm_standings.csv": desk.table(
            f"select customer_id, known_on, {', '.join(STANDING)} from accounts where (fate = 'new' and ({filled})) or "
            f"(fate = 'changed' and second_digest is distinct from second_was) {order}"
        ),
    }


def _judge_contacts(desk: _Desk) -> None:
    """Make the table `contacts`: every contact that was read, of which customer, with its state and its fate."""
    contacts = desk.pull.contacts
    assert contacts is not None
    of, accounts = quote(contacts.object), quote(desk.mapping.object)
    desk.run(
        "create temp table owners as select record_id as account_id, customer_id from accounts where fate in "
        "('new', 'changed', 'unchanged') union all select record_id, customer_id from pulled where object = "
        f"{accounts} and record_id not in (select record_id from accounts)"
    )
    on = desk.value(contacts.on.model_copy(update={"kind": "date"}) if contacts.on else None)
    until = desk.value(contacts.until.model_copy(update={"kind": "date"}) if contacts.until else None)
    account = contacts.account.model_copy(update={"part": "id"} if contacts.account.part == "name" else {})
    desk.run(
        f"create temp table read_contacts as select {of} as object, {desk.text(account)} as account_id, "
        f"{desk.known(contacts.state, STATES)} as stated, {desk.known(contacts.outcome, OUTCOMES)} as got, "
        f"{on} as stated_on, {until} as stated_until, {desk.value(contacts.channel)} as channel, "
        f"{desk.base(contacts.object, contacts.modified)} from raw where object = {of}"
    )
    desk.run(
        "create temp table contacts as select *, case when gone then 'deleted' when known_on is null or modified is "
        "null then 'without_date' when customer_id is null then 'without_customer' when was is null then 'new' when "
        "digest = was then 'unchanged' else 'changed' end as fate, '' as second_digest, "
        "coalesce(version_was, 0) + 1 as version from (select r.*, o.customer_id, "
        "sha256(cast(json_array(o.customer_id, r.event_on_said, r.state, r.outcome, r.until, r.channel) as varchar)) "
        "as digest, p.digest as was, try_cast(c.version as integer) as version_was from (select *, stated_on as "
        "event_on_said, coalesce(stated_on, cast(known_on as varchar)) as event_on, "
        "case when stated <> 'snoozed' then stated when stated_until >= coalesce(stated_on, cast(known_on as varchar)) "
        "then 'snoozed' end as state, case when stated = 'done' then coalesce(got, 'other') end as outcome, "
        "case when stated = 'snoozed' and stated_until >= coalesce(stated_on, cast(known_on as varchar)) then "
        "stated_until end as until from read_contacts) r "
        f"left join owners o using (account_id) left join (select * from pulled where object = {of}) p "
        f"using (record_id) left join (select * from counted where object = {of}) c using (record_id)) judged"
    )


def _contact_file(desk: _Desk) -> pa.Table:
    """Return the contacts that are new or changed, and those that are gone since, as such."""
    contacts = desk.pull.contacts
    assert contacts is not None
    day = f"'{desk.found_on}'"
    return desk.table(
        "select record_id as contact_id, customer_id, event_on, cast(known_on as varchar) as known_on, state, outcome, "
        "until, channel, version from contacts where fate in ('new', 'changed') union all select record_id, "
        f"customer_id, {day}, {day}, 'deleted', null, null, null, try_cast(c.version as integer) + 1 from pulled "
        f"join (select object, record_id, version from counted) c using (object, record_id) where "
        f"object = {quote(contacts.object)} and {_is_gone(desk, 'contacts', contacts.object)} "
        "order by customer_id, known_on, contact_id"
    )


def _is_gone(desk: _Desk, judged: str, of: str) -> str:
    """Return the SQL of a delivered record that is gone: given up, or no longer listed."""
    said = f"record_id in (select record_id from {judged} where fate = 'deleted')"
    unlisted = f"record_id not in (select record_id from listed where object = {quote(of)})"
    return f"({said} or {unlisted})" if desk.complete else said


def _vanished(desk: _Desk) -> pa.Table:
    """Return the records that were delivered before and are gone: object, record_id, customer_id, found_on."""
    objects = {"accounts": desk.mapping.object}
    if desk.pull.contacts is not None:
        objects["contacts"] = desk.pull.contacts.object
    parts = [
        f"select object, record_id, customer_id, '{desk.found_on}' as found_on from pulled where object = {quote(of)} "
        f"and {_is_gone(desk, judged, of)}"
        for judged, of in objects.items()
    ]
    return desk.table(" union all ".join(parts) + " order by 1, 2")


def manifest(files: dict[str, Any], delivered_on: dt.date) -> dict[str, Any]:
    """Return the manifest: a pull covers no whole month, so that it does not decide `as_of: latest`."""
    return {"delivered_on": delivered_on.isoformat(), "complete": False, "files": files}
