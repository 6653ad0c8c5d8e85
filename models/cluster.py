"""The same fit on a Dask cluster, for panels that one machine takes too long over: `train.cluster`.

Rows are dealt to the workers in their order, each worker holds its share and LightGBM adds the histograms of all
(`tree_learner: data`). The parameters are those of one machine; rows are bagged on each worker by itself and bins are
found from each worker's rows, so that trees differ a little: the run is marked as not reproducible. Needs the extra of
the install, `make install-cluster`, here and the same LightGBM on the workers.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from features.errors import ConfigurationRefused, Problem, ServiceRefused
from models import estimator

PATIENCE = 30  # seconds until a scheduler that does not answer is given up
OF_THE_MACHINE = re.compile(r"^\[(machines|local_listen_port|num_machines|time_out): .*\]\n", flags=re.MULTILINE)


@contextmanager
def connected(scheduler: str) -> Iterator[Any]:
    """Yield a client of the scheduler at this address (`tcp://host:8786`).

    Refused: dask is not installed (exit code 4); nobody answers there, or a scheduler without workers (8).
    """
    try:
        import dask.array  # noqa: F401
        from distributed import Client
    except ImportError:
        raise ConfigurationRefused(
            Problem("train.cluster", "an environment with dask", "none", "Run `make install-cluster`.")
        ) from None
    where, remedy = "train.cluster", "Start the scheduler and its workers, or remove the address from params.yaml."
    try:
        client = Client(scheduler, timeout=PATIENCE)
    except (OSError, TimeoutError) as error:
        raise ServiceRefused(Problem(where, "the address of a scheduler", type(error).__name__, remedy)) from None
    with client:
        if not client.scheduler_info(n_workers=-1)["workers"]:
            raise ServiceRefused(Problem(where, "a scheduler with workers", "no worker", remedy))
        yield client


def fit(
    client: Any, matrix: np.ndarray, outcome: np.ndarray, columns: Sequence[str], given: Mapping[str, Any], rounds: int
) -> str:
    """Train `rounds` trees on the client's workers and return the booster as normalised text, as `estimator.fit` does.

    `matrix`: rows x columns in the order of the panel; `given`: complete parameters as `estimator.parameters` returns.
    """
    import dask.array as da
    from lightgbm.dask import DaskLGBMClassifier

    estimator.check(matrix, outcome)
    workers = len(client.scheduler_info(n_workers=-1)["workers"])
    chunk = -(-len(matrix) // workers)
    rows = da.from_array(matrix, chunks=(chunk, matrix.shape[1]))
    labels = da.from_array(outcome.astype(np.float64), chunks=chunk)
    parameters = {key: value for key, value in given.items() if key not in ("boosting", "metric", "num_threads")}
    model = DaskLGBMClassifier(client=client, n_estimators=rounds, tree_learner="data", **parameters)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Parameter n_jobs will be ignored")  # the workers' threads count
        model.fit(rows, labels)
    text = model.booster_.model_to_string(num_iteration=-1)
    text = re.sub(r"^feature_names=.*$", f"feature_names={' '.join(columns)}", text, count=1, flags=re.MULTILINE)
    return estimator.normalised(OF_THE_MACHINE.sub("", text))
