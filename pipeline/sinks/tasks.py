"""Tasks in a CRM, one for each open row of the published worklist: synchronised like customers, by a key of their own.

The key is the customer and the last day on which he was reached: who stays on the list keeps his task, and gets a new
one only when he comes onto it again after a contact. A task's state is the CRM's; `pull` brings it back.
"""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa

from features.errors import ConfigurationRefused, IntegrityRefused, Problem
from features.expressions import quote
from pipeline.desk_files import ASK, OFFER, WORDS
from pipeline.params import language
from pipeline.sinks.mapping import FOLDER, Mapped, Mapping
from pipeline.sinks.stated import REMEDY, WORKLIST

ACCOUNT = "account_record_id"
NOBODY = pa.table({"key": pa.array([], pa.string()), "record_id": pa.array([], pa.string())})


def listed(system: str, mapping: Mapping, version: Path) -> Mapping:
    """Return the mapping of the tasks; refuse (exit code 4) one that is not there, or a version without a worklist."""
    wanted = mapping.tasks
    if wanted is None:
        raise ConfigurationRefused(
            Problem(
                f"{FOLDER}/{system}.yaml: tasks", "what tasks are made of", "no such section", "Write it as shipped."
            )
        )
    file = version / WORKLIST
    if not file.is_file():
        raise ConfigurationRefused(Problem(str(file), "a published worklist", "none", "Publish one, then sync."))
    lookup = {wanted.account: Mapped(column=ACCOUNT, kind="lookup")}
    return Mapping(
        object=wanted.object, key=wanted.key, fields=wanted.fields | lookup, when_created=wanted.when_created,
        constants=wanted.constants, retry_seconds=mapping.retry_seconds, settle_seconds=mapping.settle_seconds,
        service=mapping.service,
    )  # fmt: skip


def table(version: Path, scratch: Path, record_ids: pa.Table | None = None) -> tuple[Path, int]:
    """Write the open rows with task_id, subject, body and their record; return the file, and how many have none.

    record_ids: key and record_id of the customers that the CRM holds. Rows without a record are left out; null: none
    is left out, so that fields can be compared before customers are written. A torn worklist is refused (7).
    """
    try:
        return _written(version, scratch, NOBODY if record_ids is None else record_ids, every=record_ids is None)
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error:
        file = str(version / WORKLIST)
        raise IntegrityRefused(
            Problem(file, "a worklist as it is published", "a torn or another one", REMEDY)
        ) from None


def _written(version: Path, scratch: Path, record_ids: pa.Table, *, every: bool) -> tuple[Path, int]:
    side, out = int(language() == "zh"), scratch / "tasks.parquet"
    kept = "true" if every else "account_record_id is not null"
    kind = " ".join(f"when {quote(name)} then {quote(words[side])}" for name, words in WORDS.items())
    with duckdb.connect(config={"threads": 2}) as engine:
        engine.register("held", record_ids)
        engine.execute(
            "create temp table due as select w.*, h.record_id as account_record_id, w.customer_id || '/' || "
            "coalesce(cast(last_contact_on as varchar), 'first') as task_id, "
            f"case kind {kind} end || ': ' || w.customer_id || coalesce(' (' || grade || ')', '') as subject, "
            f"left(concat_ws(chr(10), nullif(why, ''), {quote(ASK[side] + ': ')} || nullif(ask, ''), "
            f"{quote(OFFER[side] + ': ')} || nullif(offer, '')), 2000) as body "
            f"from read_parquet({quote(str(version / WORKLIST))}) w "
            "left join held h on h.key = w.customer_id where state = 'open'"
        )
        without = engine.execute("select count(*) from due where account_record_id is null").fetchone()
        engine.execute(f"copy (select * from due where {kept} order by task_id) to {quote(str(out))} (format parquet)")
    return out, int(without[0]) if without else 0
