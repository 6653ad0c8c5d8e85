"""What the model makes of its inputs, drawn by `shap` for the global explanation page: PNG bytes, the same every time.

Pictures hold no words but the names of features and families and numbers, so that they serve pages of any language.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
SEED = 20260101  # shap scatters overlapping points at random
SHOWN = 20  # features of the beeswarm, families of the bars
DEPENDENT = 4  # features of which the dependence is drawn
COLOUR = "#23608f"


def drawn(
    values: Floats, matrix: Floats, features: Sequence[str], mass: Floats, families: Sequence[str]
) -> dict[str, bytes]:
    """Return PNG files by name: `families.png`, `beeswarm.png`, `dependence_1.png` and so on.

    values: contributions against the reference in log-odds, (n, inputs), with the model's matrix (NaN: missing) beside
    them. mass: their sums by family, (n, families). None without rows.
    """
    if not len(values):
        return {}
    with _shap() as shap:
        inputs = shap.Explanation(values=values, data=matrix, feature_names=list(features))
        by_family = shap.Explanation(values=mass, data=np.zeros(mass.shape), feature_names=list(families))
        pictures = {"families.png": _picture(lambda axes: _bars(shap, by_family, axes), min(SHOWN, mass.shape[1]))}
        pictures["beeswarm.png"] = _picture(
            lambda axes: shap.plots.beeswarm(
                inputs, max_display=SHOWN, ax=axes, show=False, plot_size=None, color_bar=False, s=9,
                group_remaining_features=False,
            ),
            min(SHOWN, values.shape[1]),
        )  # fmt: skip
        weight = np.abs(values).mean(axis=0)
        order = sorted(range(values.shape[1]), key=lambda place: (-weight[place], features[place]))
        for number, place in enumerate(order[:DEPENDENT], start=1):
            if weight[place] > 0 and np.isfinite(matrix[:, place]).any():
                pictures[f"dependence_{number}.png"] = _picture(
                    lambda axes, place=place: shap.plots.scatter(
                        inputs[:, place], color=COLOUR, ax=axes, show=False, dot_size=9
                    ),
                    None,
                )  # fmt: skip
    return pictures


def _bars(shap: Any, by_family: Any, axes: Any) -> None:
    """Draw the mean absolute mass of the families that weigh most; shap would add a bar of the rest in words."""
    most = np.argsort(-np.abs(by_family.values).mean(axis=0), kind="stable")[:SHOWN]
    shap.plots.bar(by_family[:, most].abs.mean(0), max_display=SHOWN, ax=axes, show=False)


@contextmanager
def _shap() -> Iterator[Any]:
    """Lend shap, with its draws made repeatable, and leave numpy's global state as it was."""
    import matplotlib as mpl

    mpl.use("Agg")
    import shap

    before = np.random.get_state()  # noqa: NPY002  shap draws from the global generator
    try:
        np.random.seed(SEED)  # noqa: NPY002
        yield shap
    finally:
        np.random.set_state(before)  # noqa: NPY002


def _picture(draw: Any, lines: int | None) -> bytes:
    """Return what `draw` puts on axes as PNG: high enough for the lines of text, or (None) a plot of dependence."""
    from matplotlib import pyplot as plt

    size = (5.6, 3.6) if lines is None else (9.0, 1.2 + 0.3 * lines)
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    draw(axes)
    axes.tick_params(labelsize=10)
    (axes.set_ylabel if lines is None else axes.set_xlabel)("log-odds", fontsize=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()
