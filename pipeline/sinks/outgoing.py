"""The published table as rows of a CRM: built, hashed and compared with what was sent by the engine, not row by row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa

from features.errors import ConfigurationRefused, Problem
from features.expressions import name, quote
from pipeline.sinks.interface import Connector, Row, Wanted
from pipeline.sinks.mapping import Mapped, Mapping


class Outgoing:
    """The rows of one published version as one connector sends them."""

    def __init__(self, table: Path, mapping: Mapping, connector: Connector) -> None:
        self.mapping, self._connector = mapping, connector
        self._engine = duckdb.connect()
        self._engine.execute("set threads = 2; set memory_limit = '1GB'; set TimeZone = 'UTC'")
        source = f"read_parquet({quote(str(table))})"
        self._columns = {row[0] for row in self._engine.execute(f"describe select * from {source}").fetchall()}
        self._refuse_unknown_columns()
        self._engine.execute(
            f"create temp table outgoing as select *, sha256(payload) as digest from (select "
            f"cast({name(mapping.key.column)} as varchar) as key, {self._json(mapping.fields)} as payload, "
            f"{self._json(mapping.when_created)} as made_with from {source})"
        )
        self._refuse_unfit_keys()

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
        if not mapped.values:
            return value
        cases = " ".join(f"when {quote(ours)} then {quote(theirs)}" for ours, theirs in mapped.values.items())
        return f"case {value} {cases} else {value} end"

    def _json(self, fields: dict[str, Mapped]) -> str:
        pairs = ", ".join(f"{quote(field)}, {self._value(mapped)}" for field, mapped in sorted(fields.items()))
        return f"cast(json_object({pairs}) as varchar)"

    def wanted(self) -> dict[str, tuple[Wanted, int]]:
        """Return every field as it must be to hold these rows, and the length of the longest text in it."""
        mapping = self.mapping
        key = Mapped(column=mapping.key.column, label=mapping.key.label, length=50)
        result = {}
        for field, mapped in {mapping.key.field: key, **mapping.fields, **mapping.when_created}.items():
            part = "made_with" if field in mapping.when_created else "payload"
            value = "key" if field == mapping.key.field else f"{part} ->> {quote('$.' + json.dumps(field))}"
            longest, choices = 0, ()
            if mapped.kind == "text":
                longest = self._row(f"select coalesce(max(length({value})), 0) from outgoing")[0]
            if mapped.kind == "choice":
                found = self._engine.execute(
                    f"select distinct {value} from outgoing where ({value}) is not null order by 1"
                )
                choices = tuple(str(row[0]) for row in found.fetchmany(1000))
            label = mapped.label or field.removesuffix("__c").replace("_", " ")
            result[field] = (
                Wanted(field, label[:25], mapped.kind, mapped.digits, max(mapped.length, longest),
                       field == mapping.key.field, choices), longest,
            )  # fmt: skip
        return result

    def gone(self, rejected: pa.Table) -> list[str]:
        """Return the keys of a table of the journal that are no longer published."""
        self._engine.register("was_rejected", rejected)
        found = self._engine.execute("select key from was_rejected where key not in (select key from outgoing)")
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

    def batches(self, size: int) -> Iterator[list[Row]]:
        """Yield what was chosen, in order of the key."""
        found = self._engine.execute("select key, digest, payload, made_with from chosen order by place")
        while rows := found.fetchmany(size):
            yield [
                Row(key, digest, json.loads(payload), json.loads(made) | self.mapping.constants)
                for key, digest, payload, made in rows
            ]
