"""What a run leaves in MLflow: one run a trained model, one a publication, and the registry as a mirror, never read.

The only package that imports mlflow. SQLite in `mlruns/` by default, any server by MLFLOW_TRACKING_URI. Runs are found
by the content hash in their tags, so that logging the same thing twice leaves one run.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from features.errors import Problem, ServiceRefused
from pipeline.tracking.plots import figures

STORE = Path("mlruns")
# mlflow would name the account and a path of the machine
ANONYMOUS = {"mlflow.user": "pipeline", "mlflow.source.name": "pipeline"}
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


@contextmanager
def _service(*, strict: bool) -> Iterator[None]:
    """Let a run survive its tracking store: one line where it is away, a refusal (exit code 8) in strict mode."""
    try:
        yield
    except Exception as error:
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        if not isinstance(error, MlflowException | SQLAlchemyError | OSError):
            raise
        where = "MLflow tracking"
        found = type(error).__name__
        if strict:
            remedy = "Start the server of MLFLOW_TRACKING_URI or set promote.tracking_strict to false."
            raise ServiceRefused(Problem(where, "reachable and writable", found, remedy)) from error
        print(f"tracking  not logged, the run goes on: {where} gave {found}", file=sys.stderr, flush=True)


def _quiet() -> None:
    """Keep mlflow's and alembic's chatter out of a stage's counts."""
    import logging

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _experiment(name: str) -> str:
    """Point mlflow at the store, make the experiment if it is missing, and return its id."""
    import mlflow

    _quiet()
    server = os.environ.get("MLFLOW_TRACKING_URI")
    if not server:
        STORE.mkdir(mode=0o700, exist_ok=True)
        database = STORE.resolve() / "mlflow.db"
        mlflow.set_tracking_uri(f"sqlite:///{database}")
    found = mlflow.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    location = None if server else (STORE.resolve() / "artifacts" / name).as_uri()
    return str(mlflow.create_experiment(name, artifact_location=location))


def _existing(client: Any, experiment_id: str, tag: str, value: str) -> str | None:
    """Return the id of the finished run that carries this tag."""
    runs = client.search_runs(
        [experiment_id], filter_string=f"tags.`{tag}` = '{value}' and attributes.status = 'FINISHED'", max_results=1
    )
    return str(runs[0].info.run_id) if runs else None


def log_training(training: Training, *, strict: bool) -> None:
    """Log one trained model once, register it, and mirror the aliases `challenger` and `champion`."""
    with _service(strict=strict):
        import mlflow
        from mlflow import MlflowClient

        experiment_id = _experiment(f"{training.registry}-{training.source}")
        client = MlflowClient()
        tag = "bellwether.experiment_candidate" if training.experiment else "bellwether.candidate"
        run_id = _existing(client, experiment_id, tag, training.candidate)
        if run_id is None:
            with mlflow.start_run(experiment_id=experiment_id, run_name=f"train {training.candidate[:8]}") as run:
                run_id = str(run.info.run_id)
                tags = dict(training.tags) | ANONYMOUS | {tag: training.candidate, "bellwether.kind": "training"}
                if training.experiment:
                    tags["bellwether.experiment"] = training.experiment
                mlflow.set_tags(tags)
                mlflow.log_params({key: value[:500] for key, value in training.params.items()})
                mlflow.log_metrics(dict(training.metrics))
                _log_artifacts(training.artifacts)
                for name, figure in figures(training.plots).items():
                    mlflow.log_figure(figure, f"plots/{name}")
                if training.trials is not None and training.trials.exists():
                    import pandas as pd

                    mlflow.log_table(pd.read_parquet(training.trials), artifact_file="trials.json")
                log_model(training.bundle)
        if training.experiment is None:
            _mirror(client, training, run_id)


def _log_artifacts(paths: tuple[Path, ...]) -> None:
    """Log files by their names, and folders with their content below their names."""
    import mlflow

    for path in paths:
        if path.is_dir():
            mlflow.log_artifacts(str(path), artifact_path=path.name)
        elif path.exists():
            mlflow.log_artifact(str(path))


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


def _mirror(client: Any, training: Training, run_id: str) -> None:
    """Register the candidate once and set the aliases as the verdict says."""
    from mlflow.exceptions import MlflowException

    name = f"{training.registry}-{training.source}"
    try:
        client.get_registered_model(name)
    except MlflowException:
        client.create_registered_model(name)
    versions = {v.tags.get("model_version"): v.version for v in client.search_model_versions(f"name = '{name}'")}
    if training.candidate not in versions:
        model = next(m for m in client.search_logged_models([client.get_run(run_id).info.experiment_id])
                     if m.source_run_id == run_id)  # fmt: skip
        made = client.create_model_version(
            name,
            model.artifact_location,
            run_id=run_id,
            tags={"model_version": training.candidate},
            model_id=model.model_id,
        )
        versions[training.candidate] = made.version
    client.set_registered_model_alias(name, "challenger", versions[training.candidate])
    if training.champion in versions:
        client.set_registered_model_alias(name, "champion", versions[training.champion])


def mirror_champion(source: str, registry: str, champion: str, *, strict: bool) -> None:
    """Move the registry's alias `champion` after `champion set`."""
    with _service(strict=strict):
        from mlflow import MlflowClient

        _experiment(f"{registry}-{source}")
        client = MlflowClient()
        name = f"{registry}-{source}"
        for version in client.search_model_versions(f"name = '{name}'"):
            if version.tags.get("model_version") == champion:
                client.set_registered_model_alias(name, "champion", version.version)


def log_publication(
    *, source: str, registry: str, run_id: str, tags: Mapping[str, str], params: Mapping[str, str],
    metrics: Mapping[str, float], artifacts: tuple[Path, ...], strict: bool,
) -> None:  # fmt: skip
    """Log one publication once, linked to its training run by the tag `bellwether.candidate`."""
    with _service(strict=strict):
        import mlflow
        from mlflow import MlflowClient

        experiment_id = _experiment(f"{registry}-{source}")
        if _existing(MlflowClient(), experiment_id, "bellwether.publication", run_id) is not None:
            return
        with mlflow.start_run(experiment_id=experiment_id, run_name=f"publish {run_id[:8]}"):
            kind = {"bellwether.kind": "publication", "bellwether.publication": run_id}
            mlflow.set_tags(dict(tags) | ANONYMOUS | kind)
            mlflow.log_params(dict(params))
            numbers = sorted(metrics.items())
            for start in range(0, len(numbers), BATCH):
                mlflow.log_metrics(dict(numbers[start : start + BATCH]))
            _log_artifacts(artifacts)
