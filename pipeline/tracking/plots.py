"""The plots of one training run as pictures: what a person looks at first in the tracking store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LINES = {  # file of data/evaluate/plots: x, lines, title
    "roc.json": ("false_positive_rate", ("true_positive_rate",), "ROC on rows that did not train"),
    "calibration.json": (
        "predicted",
        ("observed", "observed_low", "observed_high"),
        "Realised default rate against mean PD, with 95% interval",
    ),
    "lift.json": ("share", ("capture",), "Share of defaults among the riskiest"),
}


def figures(folder: Path) -> dict[str, Any]:
    """Return file name -> matplotlib figure of every plot that the folder holds with at least one point."""
    from matplotlib.figure import Figure

    drawn = {}
    for name, (x, lines, title) in LINES.items():
        path = folder / name
        points = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        if not points:
            continue
        figure = Figure(figsize=(6, 5), layout="constrained")
        axes = figure.subplots()
        for line in lines:
            axes.plot([p[x] for p in points], [p[line] for p in points], label=line.replace("_", " "), linewidth=1.2)
        limit = max(p[x] for p in points)
        axes.plot([0, limit], [0, limit], color="grey", linestyle=":", linewidth=0.8)
        axes.set(xlabel=x.replace("_", " "), title=title)
        axes.legend()
        drawn[name.replace(".json", ".png")] = figure
    return drawn
