"""The champion as one SQL statement: features by name in, PD with interval, score and grade out.

Plain SQL that DuckDB and PostgreSQL both read: categories become codes by MD5 of feature and level, every tree is a
nested CASE, trees are summed in blocks, and calibration, points and grades follow in stages of their own, so that no
engine computes anything twice. It answers as the bundle does: a null, or NaN, is missing, an unknown level is unseen,
and a row with an infinite value, which the bundle refuses, gets nulls.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from features.expressions import name as identifier
from features.expressions import quote
from models.calibration import Calibrator
from models.encoders import Codes
from models.grades import PD_FLOOR, Scale
from models.inputs import SEPARATOR
from models.scorer import Scorer
from models.treeshap import MISSING_NAN, MISSING_ZERO, ZERO, NotApplicable, read_trees

BLOCK = 10  # trees in one column: few enough columns, and sums that no parser finds too deep
KEYS = ("customer_id", "as_of")
Stage = tuple[str, list[str], str]  # name, columns, what it reads


def to_sql(scorer: Scorer, source: str = "features") -> str:
    """Return the statement that scores the rows of `source`.

    scorer: a bundle with grades. source: a table or view with customer_id, as_of and the model's features, each a
    column of its name. The result has one row for each of its rows: customer_id, as_of, margin (log-odds before
    calibration), pd_raw, pd, pd_low, pd_high, score and grade. Errors: NotApplicable (models/treeshap.py) where the
    booster has splits that are not numeric, or inputs are scores of child records; ValueError without grades.
    """
    if scorer.encoders.records:
        raise NotApplicable("features alone for inputs, while this one also scores single rows of histories")
    if scorer.scale is None:
        raise ValueError("grades.json must be in the bundle")
    _, trees = read_trees(scorer.booster.model_to_string())
    names = [each.column for each in scorer.inputs]
    given, coded = list(KEYS), list(KEYS)
    for name, each in zip(names, scorer.inputs, strict=True):
        column = identifier(each.name)
        if each.kind == "categorical":
            said = f"{quote(each.name)} || chr({ord(SEPARATOR)}) || CAST({column} AS varchar)"
            key = f"substr(md5({said}), 1, 20)"
            given.append(f"{key} AS {name}")
            coded.append(f"{_code(name, scorer.encoders.codes[each.name])} AS {name}")
        else:
            given.append(f"NULLIF(CAST({column} AS float8), CAST('NaN' AS float8)) AS {name}")
            coded.append(name)
    numeric = [name for name, each in zip(names, scorer.inputs, strict=True) if each.kind == "numeric"]
    infinite = " OR ".join(f"abs({name}) = CAST('Infinity' AS float8)" for name in numeric) or "false"
    blocks = [trees[start : start + BLOCK] for start in range(0, len(trees), BLOCK)]
    sums = [f"t{place:03d}" for place in range(len(blocks))]
    summed = [
        f"{' + '.join(_node(tree, 0, names) for tree in block)} AS {name}"
        for name, block in zip(sums, blocks, strict=True)
    ]
    stages: list[Stage] = [
        ("given", given, source),
        ("coded", coded, "given"),
        ("grown", [*KEYS, *summed, f"{infinite} AS refused"], "coded"),
        ("summed", [*KEYS, f"CASE WHEN NOT coalesce(refused, false) THEN {_sum(sums)} END AS margin"], "grown"),
        *_curve(scorer.calibrator),
        ("judged", [*KEYS, "margin", *(f"{_probability(log_odds)} AS {pd}" for pd, log_odds in PDS)], "bounded"),
    ]
    points, grade = _points(scorer.scale), _grade(scorer.scale)
    final = [*KEYS, "margin", *(pd for pd, _ in PDS), f"{points} AS score", f"{grade} AS grade"]
    made = ",\n".join(
        f"{name} AS MATERIALIZED (\nSELECT {_list(columns)}\nFROM {table}\n)" for name, columns, table in stages
    )
    return f"WITH {made}\nSELECT {_list(final)}\nFROM judged\nORDER BY customer_id, as_of;\n"


PDS = (("pd_raw", "margin"), ("pd", "middle"), ("pd_low", "low"), ("pd_high", "high"))


def _list(columns: Iterable[str]) -> str:
    return ",\n  ".join(columns)


def _number(value: float) -> str:
    """Return a double's shortest text that reads back as the same double."""
    return f"CAST('{float(value)!r}' AS float8)"


def _code(name: str, codes: Codes) -> str:
    """Return a level's code, by the hash of its name."""
    if not codes.levels:
        return f"CASE WHEN {name} IS NULL THEN {_number(codes.missing)} ELSE {_number(codes.unseen)} END"
    known = " ".join(f"WHEN '{key}' THEN {_number(code)}" for key, code in sorted(codes.levels.items()))
    return (
        f"CASE WHEN {name} IS NULL THEN {_number(codes.missing)} ELSE "
        f"CASE {name} {known} ELSE {_number(codes.unseen)} END END"
    )


def _node(tree: dict[str, Any], node: int, names: Sequence[str]) -> str:
    """Return a tree below a node as nested CASE; a negative node is a leaf."""
    if not tree["split_feature"]:
        return _number(tree["leaf_value"][0])
    if node < 0:
        return _number(tree["leaf_value"][~node])
    left, right = (_node(tree, tree[side][node], names) for side in ("left_child", "right_child"))
    return f"CASE WHEN {_goes_left(tree, node, names)} THEN {left} ELSE {right} END"


def _goes_left(tree: dict[str, Any], node: int, names: Sequence[str]) -> str:
    """Return the condition of a node's left branch; a comparison with null is not true, so null goes right."""
    name, threshold = names[tree["split_feature"][node]], float(tree["threshold"][node])
    missing, default_left = tree["missing"][node], tree["default_left"][node]
    compared = f"{name} <= {_number(threshold)}"
    if missing == MISSING_NAN:
        return f"({name} IS NULL OR {compared})" if default_left else compared
    if missing == MISSING_ZERO:
        zero = f"abs({name}) <= {_number(ZERO)}"
        return f"({name} IS NULL OR {zero} OR {compared})" if default_left else f"({compared} AND NOT {zero})"
    return f"({name} IS NULL OR {compared})" if threshold >= 0 else compared  # missing counts as 0


def _sum(terms: Sequence[str]) -> str:
    """Return the sum of terms as a balanced tree of parentheses."""
    if len(terms) <= 2:
        return " + ".join(terms) or _number(0.0)
    half = len(terms) // 2
    return f"({_sum(terms[:half])}) + ({_sum(terms[half:])})"


def _line(at: str, knots: Sequence[float], values: Sequence[float]) -> str:
    """Return the straight lines between knots, for `at` inside them."""
    if len(knots) == 1:
        return _number(values[0])
    pieces = []
    for (left, right), (low, high) in zip(pairwise(knots), pairwise(values), strict=True):
        slope = (high - low) / (right - left)
        pieces.append((right, f"{_number(slope)} * ({at} - {_number(left)}) + {_number(low)}"))
    whens = " ".join(f"WHEN {at} < {_number(right)} THEN {line}" for right, line in pieces[:-1])
    return f"CASE {whens} ELSE {pieces[-1][1]} END" if whens else pieces[-1][1]


def _inside(at: str, knots: Sequence[float]) -> str:
    return f"greatest(least({at}, {_number(knots[-1])}), {_number(knots[0])})"


def _log_odds(curve: Calibrator, at: str, inside: str) -> str:
    """Return the calibrated log-odds at a margin; `inside` is the margin drawn into the knots of an isotonic curve."""
    anchor = _number(curve.anchor)
    if curve.method == "platt":
        slope, intercept = curve.figures["platt"]
        return f"{_number(slope)} * {at} + {_number(intercept)} + {anchor}"
    if curve.method == "beta":
        rising, falling, intercept = curve.figures["beta"]
        tail = f"ln({_number(1.0)} + exp(-least(abs({at}), {_number(700.0)})))"
        below, above = f"(greatest(-{at}, 0) + {tail})", f"(greatest({at}, 0) + {tail})"
        return f"{_number(rising)} * -{below} + {_number(falling)} * {above} + {_number(intercept)} + {anchor}"
    knots, values = curve.figures["margin"], curve.figures["log_odds"]
    beyond = f"{_number(curve.figures['beyond'][0])} * ({at} - {inside})"
    return f"({_line(inside, knots, values)}) + {beyond} + {anchor}"


def _curve(curve: Calibrator) -> list[Stage]:
    """Return the stages from margin to log-odds and their interval, as `Calibrator.interval` has them."""
    knots = curve.figures["margin"] if curve.method == "isotonic" else (0.0,)
    drawn = [
        f"{_inside('margin', curve.grid)} AS on_grid",
        f"{_inside('margin', knots)} AS on_curve",
        f"{_inside(_inside('margin', curve.grid), knots)} AS grid_on_curve",
    ]
    middle, at_grid = (_log_odds(curve, *each) for each in (("margin", "on_curve"), ("on_grid", "grid_on_curve")))
    ends = {
        name: f"{_line('on_grid', curve.grid, values)} + {_number(curve.anchor)} + middle - middle_on_grid"
        for name, values in (("low", curve.low), ("high", curve.high))
    }
    low, high = f"least({ends['low']}, middle) AS low", f"greatest({ends['high']}, middle) AS high"
    return [
        ("drawn", [*KEYS, "margin", *drawn], "summed"),
        ("curved", [*KEYS, "margin", "on_grid", f"{middle} AS middle", f"{at_grid} AS middle_on_grid"], "drawn"),
        ("bounded", [*KEYS, "margin", "middle", low, high], "curved"),
    ]


def _probability(log_odds: str) -> str:
    """Return 1 / (1 + exp(-x)); PostgreSQL takes an exp that overflows for an error."""
    held = f"greatest(least({log_odds}, {_number(700.0)}), {_number(-700.0)})"
    return f"CASE WHEN margin IS NOT NULL THEN {_number(1.0)} / ({_number(1.0)} + exp(-({held}))) END"


def _points(scale: Scale) -> str:
    safe = f"greatest(least(pd, {_number(1 - PD_FLOOR)}), {_number(PD_FLOOR)})"
    odds = f"ln({_number(1.0)} - {safe}) - ln({safe}) - {_number(math.log(scale.base_odds))}"
    points = f"round({_number(scale.base_score)} + {_number(scale.points_a_unit)} * ({odds}))"
    return f"CASE WHEN pd IS NOT NULL THEN CAST({points} AS integer) END"


def _grade(scale: Scale) -> str:
    bounds = zip(scale.bounds[:-1], scale.names[:-1], strict=True)
    whens = " ".join(f"WHEN pd < {_number(bound)} THEN '{name}'" for bound, name in bounds)
    return f"CASE WHEN pd IS NULL THEN NULL {whens} ELSE '{scale.names[-1]}' END"
