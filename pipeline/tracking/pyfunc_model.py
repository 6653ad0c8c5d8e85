"""The model as MLflow loads it: features in, calibrated PD, score and grade out; built from the bundle's text files."""

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd

from models.scorer import Scorer


class ScoredFeatures(mlflow.pyfunc.PythonModel):
    """One row of features a customer in; pd_raw, pd, pd_low, pd_high, score and grade out, in the same order."""

    def load_context(self, context: Any) -> None:
        """Read the bundle."""
        folder = Path(context.artifacts["bundle"])
        self.scorer = Scorer.from_files(
            {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}
        )

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Score; a missing or renamed feature is refused, and so is all where the model also scores child records."""
        del context, params
        self.scorer.needs_features_alone("the model in MLflow")
        return self.scorer.score(model_input)


mlflow.models.set_model(ScoredFeatures())
