"""`python -m pipeline erase <customer_id>`: no trace of a customer in what the pipeline wrote, and a proof of it.

In this order, so that the same command ends its work after a kill: tombstone (tombstones.py); published versions, each
rewritten without him beside the old one and swapped in one step; the stages' folders and DVC's cache, which the next
run makes anew; MLflow, records of runs, overrides, the sink; then every file is searched again. Raw files are the
lender's: they are listed, never written, and `ingest` leaves his rows out. The proof, data/erased/proof-<hash>.json,
does not name him.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq

from features.errors import ConfigurationRefused, GateRefused, IntegrityRefused, Problem, ServiceRefused
from pipeline import healing, letter, postgres, run, tombstones, traces, versions
from pipeline.fingerprint import sha256
from pipeline.publish import Params
from pipeline.stage import read_json, write_json
from pipeline.survey import CACHE, MADE, Found, credits_of, survey, tracked, trained_by
from pipeline.traces import Trace, files_below, named

WHY = "rows of an erased customer were taken out of it"


def erase(customer: str, *, dry_run: bool = False) -> int:
    """Erase a customer and return 0; with `dry_run` only tell what would go.

    Refuses (exit code 4) a customer whom no file names, (3) where a trace is left that a person must judge, (6) while
    another run owns the workspace, (8) where the sink is away: all else is done then, and the command may be repeated.
    """
    if not customer.strip() or len(customer) > traces.LONGEST // 8:
        raise ConfigurationRefused(Problem("customer", "an identifier", "none or too long", "Name one customer."))
    trace, params = Trace(customer), Params.load()
    to = postgres.sink(params.postgres, params.postgres_table)
    with run.owned():
        if not dry_run:
            healing.heal()
        owned = credits_of(customer)
        found = survey(trace, owned)
        stones = tombstones.load()
        erased_before = stones is not None and stones.knows(customer)
        if not found.any and not erased_before:
            remedy = "Check the identifier: letters of the other case are another customer."
            raise ConfigurationRefused(Problem("customer", "one whom a file here names", "none of that id", remedy))
        problems = [
            problem for run_id in found.versions for problem in versions.faults(versions.VERSIONS / run_id, pruned=True)
        ]
        if problems and not dry_run:  # a manifest of ours must not make sound what somebody altered
            raise IntegrityRefused(problems)
        models = trained_by(customer)
        if dry_run:
            _tell(found, models, "would be", "would be")
            return 0
        stones = tombstones.begin()
        tombstones.lay(stones, customer, owned)
        for run_id in found.versions:
            rewrite_version(versions.VERSIONS / run_id, trace)
        _mend_receipt()
        if found.made or not erased_before:
            _remove_made()
        _clear_records(trace, found)
        late = None if to is None else _clear_sink(to, customer)
        after = survey(trace, owned)
        _tell(found, models, "was", "were")
        proof = _prove(stones.hash(tombstones.CUSTOMERS, customer), found, after, models, late)
    _judge(after, proof)
    if late is not None:
        raise late
    return 0


# --- what is done


def rewrite_version(folder: Path, trace: Trace) -> None:
    """Put a version without the customer in the place of one with him, in one step, with a manifest that says so.

    Tables lose his rows; a page that names him goes as a whole, for its figures would still be his. The model's files
    stay. What it was cannot be rebuilt any more, and `rebuild` says why.
    """
    scratch = folder.with_name(f".tmp-{folder.name}")
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(folder, scratch)
    manifest = read_json(scratch / "manifest.json")
    rewritten, removed = [], []
    for path in [path for path in versions.files_of(scratch) if named(trace, path)]:
        name = path.relative_to(scratch).as_posix()
        if name.startswith("scorer/"):
            continue
        content = traces.without(trace, path)
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        if content is None or named(trace, path):
            path.unlink(missing_ok=True)
            del manifest["files"][name]
            removed.append(name)
        else:
            manifest["files"][name] = sha256(path)
            rewritten.append(name)
    table = scratch / "scored_customers.parquet"
    if "bellwether.duckdb" in removed and table.exists():
        _write_database(scratch)
        manifest["files"]["bellwether.duckdb"] = sha256(scratch / "bellwether.duckdb")
        removed.remove("bellwether.duckdb")
        rewritten.append("bellwether.duckdb")
    if table.exists():
        manifest["rows"] = pq.read_metadata(table).num_rows
    before = manifest.get("erased") or {"customers": 0, "first_manifest": sha256(folder / "manifest.json")}
    manifest["erased"] = {
        "customers": before["customers"] + 1,
        "first_manifest": before["first_manifest"],
        "rewritten": sorted({*before.get("rewritten", []), *rewritten} - set(removed)),
        "removed": sorted({*before.get("removed", []), *removed}),
        "rebuild": f"not byte for byte: {WHY}",
    }
    write_json(scratch / "manifest.json", manifest)
    versions.sync_tree(scratch)
    _exchange(scratch, folder)
    shutil.rmtree(scratch)


def _write_database(folder: Path) -> None:
    """Write the DuckDB file anew from the table beside it."""
    with duckdb.connect(str(folder / "bellwether.duckdb")) as connection:
        connection.execute(
            "create table scored_customers as select * from read_parquet(?) order by customer_id",
            [str(folder / "scored_customers.parquet")],
        )


def _exchange(fresh: Path, old: Path) -> None:
    """Let two folders change names in one step, so that a reader never finds none; in two where the system cannot."""
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None or rename(here, os.fsencode(fresh), here, os.fsencode(old), swap) != 0:
        aside = old.with_name(f".tmp-old-{old.name}")
        old.rename(aside)
        fresh.rename(old)
        aside.rename(fresh)
    versions.sync(old.parent)


def _mend_receipt() -> None:
    """Let the receipts state the tables that the versions that they name now hold."""
    for path in (versions.RECEIPT, versions.WATCHED):
        receipt = read_json(path) if path.exists() else {}
        version = versions.VERSIONS / str(receipt.get("run_id"))
        table = version / "scored_customers.parquet"
        if table.exists() and read_json(version / "manifest.json").get("erased"):
            fresh = path.with_suffix(".json.new")
            write_json(fresh, receipt | {"scored_customers": sha256(table)})
            fresh.replace(path)


def _remove_made() -> None:
    """Remove what the next run makes anew: the stages' folders, but for what git keeps there, and DVC's cache."""
    known = tracked()
    for folder in MADE:
        for path in [path for path in files_below(folder) if path.as_posix() not in known]:
            if path.name != ".gitignore":
                path.unlink()
        for empty in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
            with suppress(OSError):
                empty.rmdir()
        with suppress(OSError):
            folder.rmdir()
    for folder in CACHE:
        if folder.exists() and not folder.is_symlink():
            shutil.rmtree(folder)


def _clear_records(trace: Trace, found: Found) -> None:
    """Take the customer's rows out of MLflow's store, of records of runs, of overrides and of tables asked for."""
    for path in [*found.store, *found.records]:
        if not path.exists():
            continue
        if traces.kind_of(path) == "sqlite":
            traces.clear_sqlite(trace, path)
            continue
        content = None if _letter(path) else traces.without(trace, path)
        if content is None:
            path.unlink()
            continue
        fresh = path.with_name(path.name + ".new")
        fresh.write_bytes(content)
        shutil.copymode(path, fresh)
        fresh.replace(path)


def _letter(path: Path) -> bool:
    """Tell whether a file is a text to one customer: without the line that names him it would still be about him."""
    return path.name.partition(".")[0] in letter.TEXTS and path.suffix == ".txt"


def _clear_sink(to: postgres.Sink, customer: str) -> ServiceRefused | None:
    """Take the customer's rows out of the sink; return why where it is away."""
    try:
        print(f"erase: {postgres.erase(to, customer)}")
    except ServiceRefused as refusal:
        return refusal
    return None


# --- what is told


def _elsewhere() -> list[str]:
    """Return the places outside this workspace that hold copies and were not searched."""
    places = [f"{folder}, a link" for folder in CACHE if folder.is_symlink()]
    places += [
        f"the records that sync wrote to {journal.stem}" for journal in sorted(Path(".run/crm").glob("*.sqlite"))
    ]
    if os.environ.get("MLFLOW_TRACKING_URI"):
        places.append("the tracking server of MLFLOW_TRACKING_URI")
    for file in (Path(".dvc/config"), Path(".dvc/config.local")):
        for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
            key, _, value = line.partition("=")
            if key.strip() in ("url", "dir"):
                places.append(f"DVC's {key.strip()} of {file}: {value.strip().rpartition('@')[2]}")
    return places


def _tell(found: Found, models: list[dict[str, Any]], one: str, several: str) -> None:
    """Print what goes, what stays and what a person has to do."""
    print(
        f"erase: {len(found.made)} files of stages and DVC's cache name the customer; their folders {several} removed"
    )
    for run_id, files in sorted(found.versions.items()):
        print(f"erase: version {run_id} {one} rewritten without the customer, whom {len(files)} of its files name")
    for path in [*found.store, *found.records]:
        print(f"erase: rows {several} taken out of {path}")
    for path in found.raw:
        link = any(each.is_symlink() for each in (path, *path.parents))
        how = "behind a link" if link else "in the workspace"
        print(
            f"erase: raw file {path} ({how}) names the customer or his credit and stays: who delivers it must mend it"
        )
    for each in found.git:
        print(f"erase: git: {each} names the customer; commit the change, and rewrite the history where it must go")
    for model in models:
        whose = "champion" if model["champion"] else "model"
        told = ", ".join(model["mlflow_runs"]) or "none"
        print(
            f"erase: {whose} {model['model_version']} of {model['source']} was trained by {model['rows']} of the "
            f"customer's rows (MLflow runs: {told}): `python -m pipeline retrain`"
        )
    for place in _elsewhere():
        print(f"erase: not searched: {place}")


def _prove(hashed: str, found: Found, after: Found, models: list[dict[str, Any]], late: ServiceRefused | None) -> Path:
    """Write what was done and what the search after it found, without the customer's identifier; return where."""
    left = [*after.made, *(path for files in after.versions.values() for path in files), *after.store, *after.records]
    proof = tombstones.FOLDER / f"proof-{hashed[:16]}.json"
    before = read_json(proof) if proof.exists() else {}
    known = {model["model_version"]: model for model in [*before.get("retrain", []), *models]}
    counts = {
        "stages_and_cache": len(found.made), "tracking": len(found.store), "records": len(found.records),
        "raw": len(found.raw),
    }  # fmt: skip
    first = before.get("files_that_named_the_customer") or counts  # of the erasure, not of its repetition
    facts = {
        "tombstone": hashed,
        "versions_rewritten": sorted({*before.get("versions_rewritten", []), *found.versions}),
        "files_that_named_the_customer": {name: max(count, first[name]) for name, count in counts.items()},
        "files_that_name_the_customer_now": len(left) + len(after.left),
        "raw_files_kept": len(after.raw),
        "kept_by_git": len(after.git),
        "sink": "away" if late else "none, or cleared",
        "not_searched": _elsewhere(),
        "retrain": [known[version] for version in sorted(known)],
    }  # fmt: skip
    tombstones.write_private(proof, (json.dumps(facts, indent=1, sort_keys=True) + "\n").encode())
    return proof


def _judge(after: Found, proof: Path) -> None:
    """Say that nothing is left, or refuse (exit code 3) with every file that still names the customer."""
    left = [*after.made, *(path for files in after.versions.values() for path in files), *after.store, *after.records]
    left += after.left
    if left:
        remedy = "Take the rows out of it or remove it, then run the same command again."
        raise GateRefused(Problem(str(path), "without the customer", "the identifier", remedy) for path in left)
    kept = f"; {len(after.raw)} raw files keep the rows, which ingest leaves out" if after.raw else ""
    print(f"erase: searched again, no file of the workspace names the customer{kept}; proof: {proof}")
    print("erase: `python -m pipeline run` builds and publishes without the customer", file=sys.stderr)
