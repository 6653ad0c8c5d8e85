"""What a run leaves in MLflow: one run a trained model, one a publication, and the registry as a mirror, never read.

The only package that imports mlflow. SQLite in `mlruns/` by default, any server by MLFLOW_TRACKING_URI. Runs are found
by the content hash in their tags, so that logging the same thing twice leaves one run. What is to be logged is kept in
a folder first (spool.py) and goes when the store has it: a store that is away, or a kill, loses nothing.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from features.errors import Problem, ServiceRefused
from pipeline.stage import read_json
from pipeline.tracking import spool
from pipeline.tracking.plots import figures

STORE = Path("mlruns")
# mlflow would name the account and a path of the machine
ANONYMOUS = {"mlflow.user": "pipeline", "mlflow.source.name": "pipeline"}
ATTEMPT = "bellwether.attempt"  # tag: the token of the entry from which a run is logged
BATCH = 500  # metrics at once; a server takes 1,000
PIP_REQUIREMENTS = ("lightgbm", "numpy", "pandas", "scipy")


@dataclass(frozen=True)
class Training:
    """Everything one training run logs, as plain values and paths."""

    source: str
    candidate: str  # content hash of the bundle: the model version
    experiment: str | None  # the DVC experiment's name
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    artifacts: tuple[Path, ...]  # files and folders: plots, metrics, reasons
    plots: Path  # folder of evaluate's plots, drawn as pictures
    trials: Path | None  # parquet
    bundle: Path  # folder of the model's files
    registry: str
    champion: str  # content hash of the champion after the verdict


def git_commit() -> str:
    """Return the commit of the working tree, with `+changes` where it has uncommitted ones; `none` outside git."""
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no", "--", "*.py", "params.yaml", "data/sources"],
            capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "none"
    return commit + ("+changes" if dirty else "")


def uncommitted_code() -> list[str] | None:
    """Return the files of code, new ones too, that differ from the commit; None outside git."""
    code = ["features", "models", "pipeline", "dvc.yaml"]
    try:
        listed = subprocess.run(
            ["git", "status", "--porcelain", "-z", "--no-renames", "--untracked-files=all", "--", *code],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return sorted(entry[3:] for entry in listed.split("\0") if entry)


def dvc_hashes() -> dict[str, str]:
    """Return output path -> hash for every stage that dvc.lock knows."""
    lock = Path("dvc.lock")
    stages = (yaml.safe_load(lock.read_text(encoding="utf-8")) or {}).get("stages", {}) if lock.exists() else {}
    return {
        f"dvc.{out['path']}": str(out.get("md5", ""))
        for stage in stages.values()
        for out in stage.get("outs", [])
        if out["path"].startswith("data/") and not out["path"].startswith(("data/promote", "data/publish"))
    }


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested values by dotted names."""
    if not isinstance(value, dict):
        return {prefix: value}
    return {
        k: v for key, part in value.items() for k, v in flat(part, f"{prefix}.{key}" if prefix else str(key)).items()
    }


def _away(error: Exception) -> bool:
    """Tell whether an error is the store's, not ours."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return isinstance(error, MlflowException | SQLAlchemyError | OSError)


def catch_up(*, strict: bool) -> None:
    """Log every run that waits, oldest first; those that could not be logged wait for the next run, which calls this.

    One line where the store is away, or a refusal (exit code 8) in strict mode. Whatever it does, a run loses at most
    30 seconds by its store: after PATIENCE seconds it does not ask again.
    """
    entries, found = spool.waiting(), "nothing within the time that a run may lose"
    if not entries:
        return
    import mlflow  # noqa: F401  seconds of our own: they are not the store's

    for entry in entries:
        before, began = spool.lost(), time.monotonic()
        if before >= spool.PATIENCE:
            break
        try:
            with spool.patient():
                _log(entry)
        except Exception as error:
            if not _away(error):
                raise
            found = type(error).__name__
            spool.lose(before + time.monotonic() - began - spool.lost())  # a locked file costs time without requests
        else:
            spool.drop(entry)
    left = len(spool.waiting())
    if not left:
        return
    where = "MLflow tracking"
    if strict:
        remedy = "Start the server of MLFLOW_TRACKING_URI or set promote.tracking_strict to false."
        raise ServiceRefused(Problem(where, "reachable and writable", found, remedy))
    print(
        f"tracking  not logged, the run goes on: {where} gave {found}; {left} wait in {spool.FOLDER} for the next",
        file=sys.stderr, flush=True,
    )  # fmt: skip


def _log(entry: Path) -> None:
    """Log one entry."""
    record = read_json(entry / spool.RECORD)
    {"training": _log_training, "publication": _log_figures, "refusal": _log_figures, "champion": _log_champion}[
        record["kind"]
    ](entry, record)


def _quiet() -> None:
    """Keep mlflow's and alembic's chatter out of a stage's counts."""
    import logging

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _experiment(name: str) -> str:
    """Point mlflow at the store, make the experiment if it is missing, and return its id."""
    import mlflow
    from mlflow.exceptions import MlflowException

    _quiet()
    server = os.environ.get("MLFLOW_TRACKING_URI")
    if not server:
        STORE.mkdir(mode=0o700, exist_ok=True)
    mlflow.set_tracking_uri(server or f"sqlite:///{STORE.resolve() / 'mlflow.db'}")
    if not server:
        os.environ.pop("MLFLOW_TRACKING_URI", None)  # mlflow sets it, and it would count as a server's
    location = None if server else (STORE.resolve() / "artifacts" / name).as_uri()
    with _first_use(mlflow.get_tracking_uri()):
        found = mlflow.get_experiment_by_name(name)
        if found is None:
            try:
                return str(mlflow.create_experiment(name, artifact_location=location))
            except MlflowException:  # another workspace made it meanwhile
                found = mlflow.get_experiment_by_name(name)
                if found is None:
                    raise
    return str(found.experiment_id)


@contextmanager
def _first_use(store: str) -> Iterator[None]:
    """Let one process at a time open a store that is a file: of six that made its tables at once, five died."""
    path = Path(store.partition("sqlite:///")[2].partition("?")[0])
    if path == Path() or not os.access(path.parent, os.W_OK):
        yield
        return
    with path.with_name(f"{path.name}.lock").open("a", encoding="utf-8") as handle:
        ends = time.monotonic() + spool.BUDGET
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > ends:
                    raise TimeoutError("another process is making the store") from None
                time.sleep(0.1)
        yield


def _existing(client: Any, experiment_id: str, tag: str, value: str) -> str | None:
    """Return the id of the finished run that carries this tag."""
    runs = client.search_runs(
        [experiment_id], filter_string=f"tags.`{tag}` = '{value}' and attributes.status = 'FINISHED'", max_results=1
    )
    return str(runs[0].info.run_id) if runs else None


@contextmanager
def _run(experiment_id: str, name: str, token: str, tags: Mapping[str, str]) -> Iterator[str]:
    """Open a run under the entry's token and end it; those that a kill or a lost server left open are ended first.

    The token is this entry's alone, so that no other workspace's run is ended.
    """
    import mlflow
    from mlflow import MlflowClient

    client = MlflowClient()
    _end_open(client, experiment_id, token)
    told = dict(tags) | ANONYMOUS | {ATTEMPT: token}
    with mlflow.start_run(experiment_id=experiment_id, run_name=name, tags=told) as run:
        yield str(run.info.run_id)


def _end_open(client: Any, experiment_id: str, token: str) -> None:
    """End every run of an entry that is still open: whoever began it is gone."""
    filtered = f"tags.`{ATTEMPT}` = '{token}' and attributes.status = 'RUNNING'"
    for run in client.search_runs([experiment_id], filter_string=filtered):
        client.set_terminated(run.info.run_id, "KILLED")


def log_training(training: Training, *, strict: bool) -> None:
    """Log one trained model once, register it, and mirror the aliases `challenger` and `champion`.

    It is kept first: what cannot be logged now is logged by the next run.
    """
    facts = {
        "source": training.source, "registry": training.registry, "candidate": training.candidate,
        "experiment": training.experiment, "champion": training.champion, "params": dict(training.params),
        "metrics": dict(training.metrics), "tags": dict(training.tags),
    }  # fmt: skip
    files = {f"artifacts/{path.name}": path for path in training.artifacts}
    files |= {"plots": training.plots, "bundle": training.bundle}
    if training.trials is not None:
        files["trials.parquet"] = training.trials
    spool.keep("training", training.candidate + (training.experiment or ""), facts, files)
    catch_up(strict=strict)


def _log_training(entry: Path, record: dict[str, Any]) -> None:
    """Log a training that waited."""
    import mlflow
    from mlflow import MlflowClient

    facts = record["facts"]
    experiment_id = _experiment(f"{facts['registry']}-{facts['source']}")
    client = MlflowClient()
    tag = "bellwether.experiment_candidate" if facts["experiment"] else "bellwether.candidate"
    run_id = _existing(client, experiment_id, tag, facts["candidate"])
    if run_id is None:
        tags = facts["tags"] | {tag: facts["candidate"], "bellwether.kind": "training"}
        if facts["experiment"]:
            tags["bellwether.experiment"] = facts["experiment"]
        name = f"train {facts['candidate'][:8]}"
        with _run(experiment_id, name, record["token"], tags) as run_id:
            mlflow.log_params({key: value[:500] for key, value in facts["params"].items()})
            mlflow.log_metrics(facts["metrics"])
            _log_artifacts(entry / "artifacts")
            for picture, figure in figures(entry / "plots").items():
                mlflow.log_figure(figure, f"plots/{picture}")
            trials = entry / "trials.parquet"
            if trials.exists():
                import pandas as pd

                mlflow.log_table(pd.read_parquet(trials), artifact_file="trials.json")
            log_model(entry / "bundle")
    else:
        _end_open(client, experiment_id, record["token"])
    if facts["experiment"] is None:
        _mirror(client, facts, run_id)


def _log_artifacts(folder: Path) -> None:
    """Log what a folder holds, where it holds anything."""
    import mlflow

    if folder.is_dir():
        mlflow.log_artifacts(str(folder))


def log_model(bundle: Path) -> None:
    """Log the bundle as a pyfunc from code: features in, calibrated PD, score and grade out; no pickle."""
    import mlflow

    code = Path(__file__).parent
    mlflow.pyfunc.log_model(
        name="model",
        python_model=str(code / "pyfunc_model.py"),
        artifacts={"bundle": str(bundle)},
        code_paths=[str(code.parents[1] / "models"), str(code.parents[1] / "features")],
        pip_requirements=list(PIP_REQUIREMENTS),
    )


def _mirror(client: Any, facts: Mapping[str, Any], run_id: str) -> None:
    """Register the candidate once and set the aliases as the verdict says."""
    from mlflow.exceptions import MlflowException

    name = f"{facts['registry']}-{facts['source']}"
    candidate, champion = facts["candidate"], facts["champion"]
    try:
        client.get_registered_model(name)
    except MlflowException:
        with suppress(MlflowException):  # another workspace may have made it meanwhile; if not, what follows says so
            client.create_registered_model(name)
    versions = {v.tags.get("model_version"): v.version for v in client.search_model_versions(f"name = '{name}'")}
    if candidate not in versions:
        model = next(m for m in client.search_logged_models([client.get_run(run_id).info.experiment_id])
                     if m.source_run_id == run_id)  # fmt: skip
        made = client.create_model_version(
            name, model.artifact_location, run_id=run_id, tags={"model_version": candidate}, model_id=model.model_id
        )
        versions[candidate] = made.version
    client.set_registered_model_alias(name, "challenger", versions[candidate])
    if champion in versions:
        client.set_registered_model_alias(name, "champion", versions[champion])


def mirror_champion(source: str, registry: str, champion: str, *, strict: bool) -> None:
    """Move the registry's alias `champion` after `champion set`; where the store is away, the next run moves it."""
    spool.keep("champion", source, {"source": source, "registry": registry, "champion": champion}, {})
    catch_up(strict=strict)


def _log_champion(entry: Path, record: dict[str, Any]) -> None:
    """Move the alias."""
    from mlflow import MlflowClient

    del entry
    name = f"{record['facts']['registry']}-{record['facts']['source']}"
    _experiment(name)
    client = MlflowClient()
    for version in client.search_model_versions(f"name = '{name}'"):
        if version.tags.get("model_version") == record["facts"]["champion"]:
            client.set_registered_model_alias(name, "champion", version.version)


def log_publication(
    *, source: str, registry: str, run_id: str, tags: Mapping[str, str], params: Mapping[str, str],
    metrics: Mapping[str, float], artifacts: tuple[Path, ...], strict: bool, refused: bool = False,
) -> None:  # fmt: skip
    """Log one publication once, linked to its training run by the tag `bellwether.candidate`.

    refused: it was none; its figures and reasons stay, as a run tagged `bellwether.refusal`.
    It is kept first: what cannot be logged now is logged by the next run.
    """
    kind = "refusal" if refused else "publication"
    facts = {
        "source": source, "registry": registry, "run_id": run_id, "tags": dict(tags), "params": dict(params),
        "metrics": dict(metrics),
    }  # fmt: skip
    spool.keep(kind, run_id, facts, {f"artifacts/{path.name}": path for path in artifacts})
    catch_up(strict=strict)


def _log_figures(entry: Path, record: dict[str, Any]) -> None:
    """Log a publication, or a refused one, that waited."""
    import mlflow
    from mlflow import MlflowClient

    facts, kind = record["facts"], record["kind"]
    experiment_id = _experiment(f"{facts['registry']}-{facts['source']}")
    client, tag = MlflowClient(), f"bellwether.{kind}"
    if _existing(client, experiment_id, tag, facts["run_id"]) is not None:
        _end_open(client, experiment_id, record["token"])
        return
    name = f"{'refused' if kind == 'refusal' else 'publish'} {facts['run_id'][:8]}"
    tags = facts["tags"] | {"bellwether.kind": kind, tag: facts["run_id"]}
    with _run(experiment_id, name, record["token"], tags):
        mlflow.log_params(facts["params"])
        numbers = sorted(facts["metrics"].items())
        for start in range(0, len(numbers), BATCH):
            mlflow.log_metrics(dict(numbers[start : start + BATCH]))
        _log_artifacts(entry / "artifacts")
