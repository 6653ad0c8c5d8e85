"""What a few customers' rows do not say: what the source declares, and how all others stood at each month's start.

Both are functions of what was known before a day, so that a new delivery leaves them as they are; they are worked out
once, kept in .run/watch/others/ under a hash of all that they hang on (the tables' months before that day, the code,
the parameters), and looked up from then on. A row that comes late and was known before such a day changes that hash:
the month is worked out again, as a full run would.

declared-<hash>.json            `features.declared.Declared`
<month>-<hash>/                 `features.standing.Stood`: levels.parquet, segments.parquet, values.f64 (plain doubles)
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import features
from features.declared import Declared
from features.errors import ConfigurationRefused, Problem
from features.standing import Stood, month_of
from features.tables import describe_tables, open_tables
from pipeline import featurise
from pipeline.stage import fresh, read_json, say, write_json

STORE = Path(".run/watch/others")


def refuse_absent(*, ledger: bool = True) -> None:
    """Refuse (exit code 4) where what a run left is gone, as after an erasure. ledger: ingest's too must be there."""
    left = [featurise.OBSERVE / f"{name}.parquet" for name in ("training", "scoring")]
    left += [featurise.INGEST / "ledger.json"] if ledger else []
    absent = [str(path) for path in left if not path.is_file()]
    if absent:
        again = "Run the pipeline, then deliver again."
        raise ConfigurationRefused(Problem(", ".join(absent), "there, as the run left it", "no such file", again))


def _numbers(path: Path) -> Any:
    """Open plain doubles, which stay on disk."""
    return np.memmap(path, np.float64, mode="r") if path.stat().st_size else np.empty(0)


class Others:
    """The store as it is to be for the tables of data/ingest now; `prepare` works out what is missing."""

    def __init__(self, params: featurise.Params) -> None:
        self.params = params
        refuse_absent()
        self.parts: dict[str, str] = {
            name: digest for name, digest in read_json(featurise.INGEST / "ledger.json")["outputs"].items()
            if name.startswith("tables/")
        }  # fmt: skip
        self._stood: dict[dt.date, Stood] = {}

    @cached_property
    def edge(self) -> dt.date:
        """The last training date of the run before, or the last that was scored where nothing trains."""
        for name in ("training", "scoring"):
            found = pc.max(pq.read_table(featurise.OBSERVE / f"{name}.parquet", columns=["as_of"])["as_of"]).as_py()
            if found is not None:
                return dt.date.fromisoformat(found.isoformat())
        return dt.date.min

    @cached_property
    def code(self) -> str:
        """A hash of whatever decides a feature's value besides the rows."""
        import duckdb

        room = sorted(Path(features.__file__).parent.glob("*.py"))
        texts = b"\0".join([path.read_bytes() for path in room])
        described = {
            name: {part: entry.get(part) for part in ("columns", "numeric", "categorical")}
            for name, entry in describe_tables(featurise.INGEST).items()
        }
        params = self.params.model_dump(mode="json", exclude={"engine", "memory_limit", "observations_at_once"})
        stated = json.dumps([params, described, duckdb.__version__], sort_keys=True)
        return hashlib.sha256(texts + stated.encode()).hexdigest()

    def _key(self, before: dt.date, *more: str) -> str:
        """Return a hash of all that was known before a day: whole months, the day's own where it is not the first."""
        last = f"known_month={before:%Y-%m}"
        known = {
            name: digest for name, digest in self.parts.items()
            if (month := name.split("/")[2]) < last or (month == last and before.day > 1)
        }  # fmt: skip
        text = json.dumps([known, before.isoformat(), self.code, *more], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    @cached_property
    def _declared_key(self) -> str:
        decisions = {name: digest for name, digest in self.parts.items() if name.startswith("tables/observations/")}
        return self._key(self.edge, json.dumps(decisions, sort_keys=True))

    @property
    def _declared_file(self) -> Path:
        return STORE / f"declared-{self._declared_key}.json"

    def folder(self, month: dt.date) -> Path:
        """Return where a month stands, or is to stand."""
        return STORE / f"{month:%Y-%m}-{self._key(month, self._declared_key)}"

    def key(self, months: Iterable[dt.date]) -> str:
        """Return a hash of what is declared and of how others stood in these months."""
        names = [self._declared_key, *(self.folder(month).name for month in sorted(set(months)))]
        return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]

    def missing(self, months: Iterable[dt.date]) -> list[dt.date]:
        """Return the months that are not there yet."""
        return [month for month in sorted(set(months)) if not self.folder(month).is_dir()]

    @cached_property
    def declared(self) -> Declared:
        """What the source declares."""
        return Declared.from_plain(read_json(self._declared_file))

    def stood(self, month: dt.date) -> Stood:
        """Return how others stood at a month's start; its numbers stay on disk."""
        if month not in self._stood:
            home = self.folder(month)
            levels, segments = (pq.read_table(home / f"{name}.parquet") for name in ("levels", "segments"))
            self._stood[month] = Stood(levels, segments, lambda: _numbers(home / "values.f64"))
        return self._stood[month]

    def prepare(self, months: Iterable[dt.date]) -> int:
        """Work out what is missing of these months and of what is declared; return how many months that were.

        The one step that reads every customer: what `featurise` prepares is prepared once more, in its memory limit.
        """
        import ibis

        wanted = sorted(set(months))
        lacking = self.missing(wanted)
        if not lacking and self._declared_file.is_file():
            return 0
        STORE.mkdir(mode=0o700, parents=True, exist_ok=True)
        say("watch", "how others stood is worked out", months=len(lacking))
        with tempfile.TemporaryDirectory(prefix="spill-", dir=STORE) as spill:
            connection = ibis.duckdb.connect(memory_limit=self.params.memory_limit, temp_directory=spill)
            try:
                asked = [
                    connection.read_parquet(featurise.OBSERVE / f"{name}.parquet", table_name=name)
                    for name in ("training", "scoring")
                ]
                tables, described = open_tables(connection, featurise.INGEST), describe_tables(featurise.INGEST)
                matrix = featurise.run(self.params, connection, tables, described, *asked, only=frozenset())
                write_json(self._declared_file.with_suffix(".new"), matrix.declared.to_plain())
                self._declared_file.with_suffix(".new").replace(self._declared_file)
                for month in lacking:
                    self._write(connection, matrix, month)
            finally:
                connection.disconnect()
        self._forget(wanted)
        return len(lacking)

    def _write(self, connection: Any, matrix: Any, month: dt.date) -> None:
        """Write one month, whole or not at all."""
        from features.build import PARTS
        from features.prepared import numbered

        nobody = pa.table({"customer_id": pa.array([-1], pa.int32()), "as_of": pa.array([month], pa.date32())})
        asked = numbered(connection.create_table("asked_month", nobody, temp=True, overwrite=True), "as_of", "as_of")
        asked = asked.select("customer_id", "as_of", *PARTS)
        levels, segments, values = month_of(connection, matrix.lender, asked)
        home = self.folder(month)
        scratch = fresh(home.with_name(f".new-{home.name}"))
        pq.write_table(levels, scratch / "levels.parquet")
        pq.write_table(segments, scratch / "segments.parquet")
        values.astype(np.float64, copy=False).tofile(scratch / "values.f64")
        scratch.rename(home)

    def _forget(self, wanted: list[dt.date]) -> None:
        """Remove what other tables, code or parameters gave, and what a kill left."""
        kept = {self.folder(month).name for month in wanted} | {self._declared_file.name}
        for path in STORE.iterdir():
            if path.name not in kept:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
