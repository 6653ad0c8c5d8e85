"""What `watch` takes up: the version that is current, whom it marked since the run, and that nothing else changed."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import Any

import pyarrow.parquet as pq
import yaml

from features.errors import ConfigurationRefused, Problem
from pipeline import amend, bundle, ingest, touched, versions
from pipeline.amend import Published
from pipeline.fingerprint import sha256
from pipeline.others import refuse_absent
from pipeline.params import PARAMS_FILE, read_params
from pipeline.score import inputs_of

DECIDING = ("observe", "featurise", "score", "explain", "decide")  # sections that a publication between runs hangs on


@dataclass
class State:
    """What is current, and what `watch` published since the run that it is made of."""

    current: Published
    marks: touched.Dates = field(default_factory=dict)
    deliveries: dict[str, Any] = field(default_factory=dict)
    others: str | None = None

    @classmethod
    def load(cls, source: str, *, mending: bool = False) -> State:
        """Return the present state; refuse (exit code 4) where nothing of the source is published, or otherwise.

        mending: a kill within ingest, which left no ledger, is to be mended.
        """
        manifest = versions.current_manifest()
        if manifest is None or manifest["source"] != source:
            found = "nothing" if manifest is None else f"source {manifest['source']}"
            raise ConfigurationRefused(
                Problem(str(versions.CURRENT), f"a publication of source {source}", found,
                        "Publish first: `python -m pipeline run`.")
            )  # fmt: skip
        current = Published.of(manifest["run_id"])
        refuse_absent(ledger=not mending)
        _check_alike(current, source)
        if any(each["kind"] == "record" for each in inputs_of(bundle.read(current.folder / "scorer"))):
            must = "one that scores features alone"
            raise ConfigurationRefused(
                Problem("model", must, "one that scores child records too, which only a run keeps",
                        "Use `python -m pipeline run`, or retrain with featurise.records: [].")
            )  # fmt: skip
        stated = manifest.get("watch")
        if stated is None:
            return cls(current)
        marks = touched.from_table(pq.read_table(current.folder / amend.MARKS))
        return cls(current, marks, stated["deliveries"], stated["others"])

    @property
    def since(self) -> dt.date:
        """Return the date of the run that it is made of."""
        return Published.of(self.current.base).as_of


def _check_alike(current: Published, source: str) -> None:
    """Refuse (exit code 4) parameters or a mapping other than those by which the present table was made."""
    inputs = current.folder / "inputs"
    problems = []
    before = yaml.safe_load((inputs / PARAMS_FILE).read_text(encoding="utf-8"))
    now = read_params()
    for section in (*DECIDING, "language"):
        own = [
            (each.get(section), ((each.get("sources") or {}).get(source) or {}).get(section)) for each in (before, now)
        ]
        if own[0] != own[1]:
            problems.append(f"params.yaml: {section}")
    mapping = ingest.mapping_path(source)
    if sha256(mapping) != current.manifest["files"].get(f"inputs/{mapping.as_posix()}"):
        problems.append(str(mapping))
    if problems:
        raise ConfigurationRefused(
            Problem(", ".join(problems), f"as when {current.manifest['run_id']} was published", "changed since",
                    "Publish with it first: `python -m pipeline run`.")
        )  # fmt: skip
