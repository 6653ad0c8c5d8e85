"""The published table as rows of a CRM: built, hashed and compared with what was sent by the engine, not row by row."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from collections.abc import Mapping as Words
from pathlib import Path
from typing import NoReturn

import duckdb
import pyarrow as pa

from features.errors import ConfigurationRefused, IntegrityRefused, Problem
from features.expressions import name, quote
from pipeline.sinks.interface import TWO_RECORDS, Connector, Row, Wanted
from pipeline.sinks.mapping import Mapped, Mapping
from pipeline.sinks.stated import REMEDY

FLOATING = {"FLOAT", "DOUBLE"}


class Outgoing:
    """The rows of one published version as one connector sends them.

    words: column -> every value that it may hold, of those of which that is stated. A table that cannot be read is
    refused with exit code 7, a mapping that it does not fit with 4.
    """

    def __init__(
        self, table: Path, mapping: Mapping, connector: Connector, words: Words[str, tuple[str, ...]] | None = None
    ) -> None:
        self.mapping, self._connector, self._words = mapping, connector, words or {}
        self._engine = duckdb.connect()
        self._engine.execute("set threads = 2; set memory_limit = '1GB'; set TimeZone = 'UTC'")
        self._table, self._source = table, f"read_parquet({quote(str(table))})"
        try:
            described = self._engine.execute(f"describe select * from {self._source}").fetchall()
        except duckdb.Error as error:
            self._refuse_table(error)
        self._columns = {str(row[0]): str(row[1]) for row in described}
        self._refuse_unknown_columns()
        try:
            self._engine.execute(
                f"create temp table outgoing as select *, sha256(payload) as digest from (select "
                f"cast({name(mapping.key.column)} as varchar) as key, {self._json(mapping.fields)} as payload, "
                f"{self._json(mapping.when_created)} as made_with from {self._source})"
            )
        except duckdb.Error as error:
            self._refuse_unfit_values(error)
        self._refuse_unfit_keys()

    def _refuse_table(self, error: duckdb.Error) -> NoReturn:
        if isinstance(error, duckdb.OutOfMemoryException):
            raise error
        raise IntegrityRefused(
            Problem(str(self._table), "a Parquet file that can be read", "a torn file, or none", REMEDY)
        ) from None

    def _refuse_unfit_values(self, error: duckdb.Error) -> NoReturn:
        """Refuse the fields whose kind does not fit their column, or the table where its columns cannot be read."""
        if isinstance(error, duckdb.OutOfMemoryException):
            raise error
        fields = {**self.mapping.fields, **self.mapping.when_created}
        read = ", ".join(f"max(hash({name(column)}))" for column in sorted({each.column for each in fields.values()}))
        try:
            self._engine.execute(f"select {read}, max(hash({name(self.mapping.key.column)})) from {self._source}")
        except duckdb.Error as torn:
            self._refuse_table(torn)
        problems = []
        for field, mapped in fields.items():
            try:
                self._engine.execute(f"select max(hash({self._value(mapped)})) from {self._source}").fetchall()
            except duckdb.Error:
                found = f"column {mapped.column} ({self._columns[mapped.column]}) with values that are none"
                remedy = "Correct its kind or its `values`, or map another column."
                problems.append(Problem(f"mapping: {field}", f"of kind {mapped.kind}", found, remedy))
        if not problems:
            raise error
        raise ConfigurationRefused(problems) from None

    def _refuse_unknown_columns(self) -> None:
        mapped = {**self.mapping.fields, **self.mapping.when_created, self.mapping.key.field: self.mapping.key}
        problems = [
            Problem(f"mapping: {field}", "a column of the published table", each.column, "Correct it.")
            for field, each in mapped.items()
            if each.column not in self._columns
        ]
        if problems:
            raise ConfigurationRefused(problems)

    def _refuse_unfit_keys(self) -> None:
        """Refuse keys that are missing, twice, or the same but for upper and lower case, which a CRM takes for one."""
        total, distinct = self._row(
            "select count(*), count(distinct lower(trim(key))) filter (key <> '') from outgoing"
        )
        if total != distinct:
            raise ConfigurationRefused(
                Problem(
                    f"mapping: key column {self.mapping.key.column}", "there and different for every customer",
                    f"{total - distinct:,} of {total:,} missing, or equal but for case", "Choose another column.",
                )
            )  # fmt: skip

    def _row(self, query: str) -> tuple[int, ...]:
        row = self._engine.execute(query).fetchone()
        assert row is not None
        return row

    def _value(self, mapped: Mapped) -> str:
        """Return the SQL of a field's value."""
        value = self._connector.expression(mapped.kind, mapped.column, mapped.digits)
        if mapped.kind in ("number", "integer") or self._columns[mapped.column] in FLOATING:
            # no number has a place in JSON that is none or without end; what is no number at all stays, to be refused
            unsound = f"not coalesce(isfinite(try_cast({name(mapped.column)} as double)), true)"
            value = f"case when {unsound} then null else {value} end"
        if not mapped.values:
            return value
        cases = " ".join(f"when {quote(ours)} then {quote(theirs)}" for ours, theirs in mapped.values.items())
        return f"case {value} {cases} else {value} end"

    def _json(self, fields: dict[str, Mapped]) -> str:
        pairs = ", ".join(f"{quote(field)}, {self._value(mapped)}" for field, mapped in sorted(fields.items()))
        return f"cast(json_object({pairs}) as varchar)"

    def wanted(self) -> dict[str, tuple[Wanted, int]]:
        """Return every field as it must be to hold these rows, and the length of the longest value where that counts.

        A text's or an option's length is in characters, a whole number's in digits; of others it is 0.
        """
        mapping = self.mapping
        key = Mapped(column=mapping.key.column, label=mapping.key.label, length=50)
        result = {}
        for field, mapped in {mapping.key.field: key, **mapping.fields, **mapping.when_created}.items():
            part = "made_with" if field in mapping.when_created else "payload"
            value = "key" if field == mapping.key.field else f"{part} ->> {quote('$.' + json.dumps(field))}"
            choices = self._choices(mapped, value) if mapped.kind == "choice" else ()
            longest = max(map(len, choices), default=0)
            if mapped.kind in ("text", "choice", "integer"):
                counted = f"ltrim({value}, '-')" if mapped.kind == "integer" else value
                longest = max(longest, self._row(f"select coalesce(max(length({counted})), 0) from outgoing")[0])
            label = mapped.label or field.removesuffix("__c").replace("_", " ")
            result[field] = (
                Wanted(field, label[:25], mapped.kind, mapped.digits, max(mapped.length, longest),
                       field == mapping.key.field, choices), longest,
            )  # fmt: skip
        return result

    def _choices(self, mapped: Mapped, value: str) -> tuple[str, ...]:
        """Return what the tenant's options must be: all that the column may hold, and what it holds besides."""
        stated = [mapped.values.get(word, word) for word in self._words.get(mapped.column, ())]
        found = self._engine.execute(f"select distinct {value} from outgoing where ({value}) is not null order by 1")
        return tuple(dict.fromkeys([*stated, *(str(row[0]) for row in found.fetchmany(1000))]))

    def stale(self, sent: pa.Table, rejected: pa.Table) -> list[str]:
        """Return the keys, of those rejected, that are no longer published, or stand in the CRM as they now should.

        A key of several records is never stale while it is published: what is wrong with it is not what was sent.
        """
        self._engine.register("was_sent", sent)
        self._engine.register("was_rejected", rejected)
        found = self._engine.execute(
            "select key from was_rejected r left join outgoing o using (key) left join was_sent s using (key) where "
            f"o.key is null or (r.code <> {quote(TWO_RECORDS)} and s.digest = o.digest and r.digest <> o.digest) "
            "order by 1"
        )
        return [str(row[0]) for row in found.fetchall()]

    def compare(
        self, sent: pa.Table, rejected: pa.Table, *, only_rejected: bool, every: bool = False
    ) -> dict[str, int]:
        """Choose what is to be sent and return the counts: new, changed, unchanged, rejected before, gone.

        A row that was rejected is left alone until it changes, or until it is asked for alone or with all.
        """
        self._engine.register("was_sent", sent)
        self._engine.register("was_rejected", rejected)
        self._engine.execute(
            "create or replace temp table judged as select o.key, case "
            "when r.digest = o.digest then 'rejected_before' when s.digest = o.digest then 'unchanged' "
            "when s.key is null then 'new' else 'changed' end as state, r.key is not null as refused "
            "from outgoing o left join was_sent s using (key) left join was_rejected r using (key)"
        )
        chosen = "refused" if only_rejected else "true" if every else "state in ('new', 'changed')"
        self._engine.execute(
            "create or replace temp table chosen as select o.*, row_number() over (order by o.key) as place "
            f"from outgoing o join judged j using (key) where {chosen}"
        )
        counts = dict.fromkeys(("new", "changed", "unchanged", "rejected_before"), 0)
        counts |= {str(state): int(n) for state, n in
                   self._engine.execute("select state, count(*) from judged group by 1").fetchall()}  # fmt: skip
        gone = self._row("select count(*) from was_sent where key not in (select key from outgoing)")[0]
        return counts | {"no_longer_published": gone, "to_send": self._row("select count(*) from chosen")[0]}

    def rows(self, keys: Iterable[str]) -> list[Row]:
        """Return the rows of some keys, of those that are published, in order of the key."""
        self._engine.register("asked", pa.table({"key": pa.array(sorted(keys), pa.string())}))
        found = self._engine.execute(
            "select key, digest, payload, made_with from outgoing semi join asked using (key) order by key"
        )
        return [self._row_of(*row) for row in found.fetchall()]

    def _row_of(self, key: str, digest: str, payload: str, made: str) -> Row:
        return Row(key, digest, json.loads(payload), json.loads(made) | self.mapping.constants)

    def batches(self, size: int) -> Iterator[list[Row]]:
        """Yield what was chosen, in order of the key."""
        found = self._engine.execute("select key, digest, payload, made_with from chosen order by place")
        while rows := found.fetchmany(size):
            yield [self._row_of(*row) for row in rows]
