"""Stage promote: the verdict on the candidate, and the bundle that is to score.

Reads the files of select .. evaluate, judges the candidate once (the verdict is kept by candidate hash, so that a
champion set by hand stays), and writes data/promote/scorer/: the champion's bundle, or the candidate's under
`dvc exp run`. DVC keeps the folder between runs (`persist: true`): champions and verdicts of every source live in it.
Never exits 3.
"""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path
from typing import Any, ClassVar

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from features.errors import IntegrityRefused, Problem
from models import records as record_models
from models.champion import Gate, Judgement, judge
from models.grades import Scale
from models.inputs import otherwise_defined, record_inputs
from models.scorer import Scorer, fingerprint
from pipeline import bundle, records, tracking
from pipeline.fingerprint import row_key
from pipeline.params import Section, source_name
from pipeline.stage import execute, parquet, read_json, say, write_json

ROOT = Path("data/promote")
TRAINING = Path("data/featurise/training")


class Params(Section):
    """The gate, the master scale, and where training runs are logged."""

    section: ClassVar[str] = "promote"

    max_auc_drop: float = Field(default=0.005, ge=0, le=1)
    calibration_slope: tuple[float, float] = (0.8, 1.2)
    max_psi: float = Field(default=0.25, gt=0)
    min_bads: int = Field(default=20, ge=1)
    reference_rows: int = Field(default=2000, ge=1)
    scale: Scale = Scale()
    registry: str = Field(default="bellwether", pattern=r"^[A-Za-z0-9_-]+$")
    tracking_strict: bool = False

    @property
    def gate(self) -> Gate:
        """Return what a candidate must reach."""
        return Gate(
            max_auc_drop=self.max_auc_drop, calibration_slope=self.calibration_slope,
            max_psi=self.max_psi, min_bads=self.min_bads,
        )  # fmt: skip


def reference_and_keys(rows: int) -> tuple[bytes, bytes]:
    """Return two Parquet files: the reference of reasons, and the keys of the rows that trained.

    Reference: feature rows, without customer_id, of `rows` train observations that did not default, chosen by the hash
    of their key; scores of child records as models of other customers give them. Keys: SHA-256 of `customer_id|as_of`
    of every train row, sorted.
    """
    features = read_json(Path("data/train/features.json"))["features"]
    columns = [
        ("r" if each["kind"] == "record" else "f") + '."' + each["name"].replace('"', '""') + '"' for each in features
    ]
    scores = Path("data/train/records.parquet")
    scored = f"join read_parquet('{scores}') r using (customer_id, as_of)" if scores.exists() else ""
    with duckdb.connect() as connection:
        connection.execute(
            f"""create table trained as
            select {row_key("f")} as key, {", ".join(["f.outcome", *columns])}
            from read_parquet('{parquet(TRAINING / "features.parquet")}') f
            join read_parquet('data/select/parts.parquet') p using (customer_id, as_of) {scored}
            where p.part = 'train'"""
        )
        reference = connection.execute(
            f"select * exclude (key) from trained where outcome = 0 order by key limit {rows}"
        ).to_arrow_table()
        keys = connection.execute("select key from trained order by key").to_arrow_table()
    return _parquet(reference), _parquet(keys)


def _parquet(table: pa.Table) -> bytes:
    """Return a table as the bytes of a Parquet file."""
    buffer = io.BytesIO()
    pq.write_table(table.combine_chunks(), buffer, compression="zstd")
    return buffer.getvalue()


def candidate_files(params: Params) -> dict[str, bytes]:
    """Return the files of the candidate's bundle."""
    reference, keys = reference_and_keys(params.reference_rows)
    trained = Path("data/train")
    return {
        "booster.txt": (trained / "booster.txt").read_bytes(),
        "encoders.json": (trained / "encoders.json").read_bytes(),
        "features.json": (trained / "features.json").read_bytes(),
        "calibrator.json": Path("data/calibrate/calibrator.json").read_bytes(),
        "grades.json": params.scale.to_json().encode(),
        "catalogue.parquet": (TRAINING / "catalogue.parquet").read_bytes(),
        "reference.parquet": reference,
        "trained_on.parquet": keys,
        **{
            name: (trained / name).read_bytes()
            for name in record_models.names_of(path.name for path in trained.iterdir())
        },
    }


def run(champion: dict[str, bytes] | None, gate: Gate, kind: str) -> tuple[str, Judgement]:
    """Return the decision and the judgement: the candidate's predictions against the champion's on unseen rows.

    Decisions: `first`, `promoted`, `kept`, `not comparable`, `champion not computable`.
    """
    if champion is None:
        return "first", Judgement(passed=True, reasons=("the first model of this source",))
    predictions = pd.read_parquet("data/evaluate/predictions.parquet")
    test = predictions[(predictions["part"] == "test") & predictions["outcome"].notna()]
    train = predictions.loc[predictions["part"] == "train", "pd"].to_numpy(dtype=float)
    if kind != "time":
        why = "random split: no rows exist that neither model was trained on"
        return "not comparable", Judgement(passed=False, reasons=(why,))
    catalogue = pd.read_parquet(TRAINING / "catalogue.parquet", columns=["name", "definition_hash"])
    missing, changed = otherwise_defined(Scorer.from_files(champion).features, catalogue)
    lost = [*missing, *changed]
    if lost:
        outcome = test["outcome"].to_numpy(dtype="int8")
        judgement = judge(outcome, test["pd"].to_numpy(dtype=float), None, train, gate)
        if judgement.passed:
            return "champion not computable", judgement
        names = ", ".join(lost[:20])
        raise IntegrityRefused(
            Problem(
                "champion", "computable with today's feature definitions", f"other or no definitions of {names}",
                "Restore the definitions, or train a candidate that passes the gate: " + "; ".join(judgement.reasons),
            )
        )  # fmt: skip
    seen = set(pq.read_table(io.BytesIO(champion["trained_on.parquet"]))["key"].to_pylist())
    with duckdb.connect() as connection:
        connection.register("test", pa.Table.from_pandas(test[["customer_id", "as_of"]], preserve_index=False))
        keys = connection.execute(f"select {row_key('test')} from test")
        unseen = [key not in seen for (key,) in keys.fetchall()]
    test = test[unseen]
    if test.empty:
        return "not comparable", Judgement(passed=False, reasons=("the champion was trained on every row compared",))
    rows = test[["customer_id", "as_of"]].merge(
        pd.read_parquet(TRAINING / "features.parquet"), on=["customer_id", "as_of"], how="left", validate="1:1"
    )
    rows = records.attached(rows, TRAINING, record_inputs(Scorer.from_files(champion).inputs))
    judgement = judge(
        test["outcome"].to_numpy(dtype="int8"),
        test["pd"].to_numpy(dtype=float),
        Scorer.from_files(champion).score(rows)["pd"].to_numpy(dtype=float),
        train,
        gate,
        test["customer_id"].to_numpy(dtype=object),
    )
    return ("promoted" if judgement.passed else "kept"), judgement


def main() -> None:
    """Judge, remember the verdict, and lay out the scorer."""
    params = Params.load()
    source = source_name()
    experiment = os.environ.get("DVC_EXP_NAME")
    bundle.restore_champion(source)
    evaluated = read_json(Path("data/evaluate/metrics.json"))
    trained = read_json(Path("data/train/summary.json"))
    champion = bundle.champion_version(source)
    verdict: dict[str, Any]
    if not trained.get("trained", False):
        verdict = {"decision": "no candidate", "reasons": [trained["why"]], "candidate": None, "figures": {}}
    else:
        files = candidate_files(params)
        candidate = bundle.model_version(files)
        if evaluated.get("model_sha256") != fingerprint(files):
            raise IntegrityRefused(
                Problem("data/evaluate/metrics.json", "figures of the model in data/train", "those of another model",
                        "Run `dvc repro --force evaluate`, then run again.")
            )  # fmt: skip
        if experiment:
            _lay_out(files, candidate, source, experiment=True)
            verdict = {"decision": "experiment", "reasons": [experiment], "candidate": candidate, "figures": {}}
        else:
            verdict = _judge_once(params, source, files, candidate)
            champion = bundle.champion_version(source)
    if verdict["decision"] != "experiment":
        if champion is None:
            shutil.rmtree(bundle.SCORER, ignore_errors=True)
            bundle.SCORER.mkdir(parents=True)
        else:
            _lay_out(bundle.read(bundle.CHAMPION / source), champion, source, experiment=False)
    verdict |= {"champion": champion, "source": source, "registry": params.registry, "experiment": experiment}
    write_json(ROOT / "verdict.json", verdict)
    write_json(ROOT / "changes.json", _changes(source, champion))
    if verdict["candidate"] is not None:
        _track(params, source, verdict, evaluated)
    reasons = "; ".join(verdict["reasons"])
    say(
        "promote",
        verdict["decision"],
        candidate=verdict["candidate"] or "none",
        champion=champion or "none",
        because=reasons,
    )


def _judge_once(params: Params, source: str, files: dict[str, bytes], candidate: str) -> dict[str, Any]:
    """Return the candidate's verdict: the one on record, or a new one, acted upon.

    What is intended stands in a file until all of it is done, so that a run after a kill does the rest of it rather
    than judge a candidate against itself.
    """
    champion = bundle.champion_version(source)
    record = ROOT / "verdicts" / source / f"{candidate}.json"
    intended = bundle.intended(source, candidate)
    if intended is None and record.exists() and champion is not None:
        return dict(read_json(record))
    verdict, passed = intended or _judge(params, source, candidate, champion)
    if intended is None:
        bundle.intend(source, verdict, passed=passed)
    bundle.keep(source, files)
    decision = verdict["decision"]
    if passed and candidate != verdict["compared_with"]:
        bundle.make_champion(source, candidate, author="pipeline", reason=decision)
    write_json(record, verdict)
    if decision != "unchanged":
        trained = read_json(Path("data/train/summary.json"))
        bundle.note_change(
            source, model_version=candidate, decision=decision, author="pipeline", reasons=verdict["reasons"],
            champion=bundle.champion_version(source), git_commit=tracking.git_commit(),
            train_until=trained["settings"]["until"], train_rows=trained["rows"],
            test_auc=read_json(Path("data/evaluate/metrics.json")).get("test.auc"),
        )  # fmt: skip
    bundle.INTENDED.unlink()
    return verdict


def _judge(params: Params, source: str, candidate: str, champion: str | None) -> tuple[dict[str, Any], bool]:
    """Return the verdict on a candidate, and whether it is to be the champion."""
    if candidate == champion:
        decision, judgement = "unchanged", Judgement(passed=True, reasons=("the candidate is the champion",))
    else:
        kind = read_json(Path("data/select/features.json"))["split"]["kind"]
        present = bundle.read(bundle.CHAMPION / source) if champion else None
        decision, judgement = run(present, params.gate, kind)
    verdict = {
        "decision": decision, "reasons": list(judgement.reasons), "candidate": candidate,
        "compared_with": champion, "figures": dict(judgement.figures),
    }  # fmt: skip
    return verdict, judgement.passed


def _changes(source: str, champion: str | None) -> list[dict[str, Any]]:
    """Return the source's log of changes; a champion of before there was one is its only line."""
    found = bundle.changes(source)
    if champion is not None and champion not in {each["champion"] for each in found}:
        pointer = read_json(bundle.CHAMPION / f"{source}.json")
        told = {"decision": pointer["reason"], "author": pointer["author"], "reasons": ["of before there was a log"]}
        found.append({"model_version": champion, "champion": champion, **told})
    return found


def _lay_out(files: dict[str, bytes], version: str, source: str, *, experiment: bool) -> None:
    """Write data/promote/scorer/."""
    bundle.write(bundle.SCORER, files, model_version=version, source=source, experiment=experiment)


def _track(params: Params, source: str, verdict: dict[str, Any], evaluated: dict[str, Any]) -> None:
    """Log the training run from the files of the stages before."""
    tuned = tracking.flat(read_json(Path("data/tune/parameters.json")))
    figures = {key: float(value) for key, value in tracking.flat(evaluated).items() if type(value) in (int, float)}
    folder = Path("data/promote/scorer")
    if not verdict["experiment"]:
        folder = bundle.BUNDLES / source / verdict["candidate"]
    tracking.log_training(
        tracking.Training(
            source=source,
            candidate=verdict["candidate"],
            experiment=verdict["experiment"],
            params={key: str(value) for key, value in tuned.items()},
            metrics=figures,
            tags={
                "git_commit": tracking.git_commit(), "bellwether.decision": verdict["decision"],
                "bellwether.source": source, **tracking.dvc_hashes(),
            },
            artifacts=(
                Path("data/evaluate/plots"), Path("data/evaluate/metrics.json"), Path("data/select/features.json"),
                Path("data/calibrate/summary.json"), ROOT / "verdict.json",
            ),
            plots=Path("data/evaluate/plots"),
            trials=Path("data/tune/trials.parquet"),
            bundle=folder,
            registry=params.registry,
            champion=verdict["champion"] or "",
        ),
        strict=params.tracking_strict,
    )  # fmt: skip


if __name__ == "__main__":
    execute("promote", main)
