"""Two halves of the evidence: which features go to which of two models that are to judge without each other.

A model cannot see from its own outcomes how far a customer's true PD lies from what its features say. What can be
measured is how far two models disagree that share neither a customer they learned from nor a piece of evidence. For
that the features are cut in two: families stay whole, and families that move together stay together, by the sign of
the Fiedler vector of their rank correlations, at the cut that puts nearest to half of the features on either side.
Sources: Spearman 1910 and Brown 1910 (split halves); Fiedler 1973, Shi and Malik 2000 (normalised cut).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata

from models.inputs import Input

SAMPLE = 5_000  # rows on which ranks are compared


def halves(matrix: np.ndarray, inputs: Sequence[Input]) -> tuple[np.ndarray, np.ndarray]:
    """Return the columns of either half, ascending; the families' names are ordered, so the same rows cut alike.

    matrix: the model's matrix (rows x inputs), NaN where missing. One input alone goes to both halves. Where one family
    holds more than two thirds of the inputs, every input counts as a family of its own.
    """
    count = len(inputs)
    if count < 2:
        return np.arange(count), np.arange(count)
    family = np.unique([each.family for each in inputs], return_inverse=True)[1]
    if np.bincount(family).max() > 2 * count / 3:
        family = np.arange(count)
    size = np.bincount(family)
    alike = _alikeness(matrix[:: -(-len(matrix) // SAMPLE)], family)
    order = np.argsort(_fiedler(alike), kind="stable")
    filled = np.cumsum(size[order])[:-1]
    first = order[: int(np.abs(filled - count / 2).argmin()) + 1]
    inside = np.isin(family, first)
    return np.flatnonzero(inside), np.flatnonzero(~inside)


def _alikeness(matrix: np.ndarray, family: np.ndarray) -> np.ndarray:
    """Return the mean squared rank correlation between the inputs of each two families; 0 on the diagonal."""
    ranks = np.nan_to_num(_centred_ranks(matrix))
    length = np.sqrt((ranks**2).sum(axis=0))
    ranks = ranks / np.where(length > 0, length, 1)
    squared = (ranks.T @ ranks) ** 2
    member = np.equal.outer(np.arange(family.max() + 1), family).astype(float)
    mean = member @ squared @ member.T / np.outer(member.sum(axis=1), member.sum(axis=1))
    np.fill_diagonal(mean, 0.0)
    return np.asarray(np.round(mean, 9))  # the last digits hang on the machine's matrix product


def _centred_ranks(matrix: np.ndarray) -> np.ndarray:
    """Return mid-ranks a column around their mean; NaN stays NaN."""
    ranks = rankdata(matrix, axis=0, nan_policy="omit")
    known = np.maximum((~np.isnan(ranks)).sum(axis=0), 1)
    return np.asarray(ranks - np.nansum(ranks, axis=0) / known)


def _fiedler(alike: np.ndarray) -> np.ndarray:
    """Return the second eigenvector of the normalised Laplacian, signed so that its largest entry is positive."""
    degree = alike.sum(axis=1) + 1e-6
    scale = 1 / np.sqrt(degree)
    laplacian = np.eye(len(alike)) - alike * scale[:, None] * scale[None, :]
    vector = scale * np.linalg.eigh(laplacian)[1][:, 1]
    vector = np.round(vector / np.abs(vector).max(), 6)
    return np.asarray(vector * np.sign(vector[np.abs(vector).argmax()]))
