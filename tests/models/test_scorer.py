"""A bundle answers by feature name, refuses what it cannot answer, and its PDs are those of its parts."""

import json

import numpy as np
import pandas as pd
import pytest

from features.errors import DataRefused, IntegrityRefused
from models import encoders, estimator
from models.calibration import Calibrator
from models.inputs import Input, numbered, panel
from models.scorer import Scorer, fingerprint

NAMES = ["a plain one", '名前 [odd], "quoted"', "branch"]


@pytest.fixture(scope="module")
def bundle():
    random = np.random.default_rng(3)
    frame = pd.DataFrame({NAMES[0]: random.normal(size=600), NAMES[1]: random.normal(size=600)})
    frame[NAMES[2]] = random.choice(["x", "y"], 600)
    outcome = (random.random(600) < 1 / (1 + np.exp(1 - 2 * frame[NAMES[0]]))).astype(int)
    rows = panel(
        frame.assign(outcome=outcome, as_of=pd.Timestamp("2020-01-01"), customer_id=[f"c{n:04d}" for n in range(600)]),
        NAMES,
        12,
    )
    kinds = ("numeric", "numeric", "categorical")
    inputs = numbered(Input(name, "", kind, 0, "f", f"h{name}") for name, kind in zip(NAMES, kinds, strict=True))
    coder, matrix = encoders.fit_matrix(rows, inputs, 10.0, 1)
    columns = [each.column for each in inputs]
    given = estimator.parameters({"num_leaves": 4, "min_data_in_leaf": 20}, (0, 0, 0), 1)
    text = estimator.fit(estimator.dataset(matrix, rows.outcome, columns, given), given, 20)
    calibrator = Calibrator("platt", {"platt": [0.8, -0.1]}, (-1.0, 1.0), (-1.5, 0.2), (-0.3, 1.3), 0.9)
    files = {
        "booster.txt": text.encode(),
        "encoders.json": coder.to_json().encode(),
        "features.json": json.dumps({"features": [each.record() for each in inputs]}).encode(),
        "calibrator.json": calibrator.to_json().encode(),
    }
    return files, rows.features


@pytest.mark.fault("E6", "B8")
def test_columns_are_found_by_name_and_others_ignored(bundle):
    files, features = bundle
    scorer = Scorer.from_files(files)
    expected = scorer.probabilities(features)
    turned = features[NAMES[::-1]].assign(more=1.0)
    assert scorer.probabilities(turned).equals(expected)
    assert [each["name"] for each in scorer.features] == NAMES
    assert [each["column"] for each in scorer.features] == ["f0001", "f0002", "f0003"]


def test_pds_follow_from_margin_and_curve(bundle):
    files, features = bundle
    scorer = Scorer.from_files(files)
    margin = scorer.margins(features)
    scored = scorer.probabilities(features)
    assert scored["pd_raw"].to_numpy() == pytest.approx(1 / (1 + np.exp(-margin)))
    assert scored["pd"].to_numpy() == pytest.approx(1 / (1 + np.exp(0.1 - 0.8 * margin)))
    assert (scored["pd_low"] <= scored["pd"]).all()
    assert (scored["pd"] <= scored["pd_high"]).all()
    assert scored["pd_low"].gt(0).all()


@pytest.mark.fault("E6")
def test_missing_renamed_and_doubled_features_are_named_together(bundle):
    files, features = bundle
    scorer = Scorer.from_files(files)
    with pytest.raises(IntegrityRefused) as refused:
        scorer.matrix(features.rename(columns={NAMES[0]: "renamed"}).drop(columns=NAMES[2]))
    assert refused.value.exit_code == 7
    assert len(refused.value.problems) == 2
    with pytest.raises(IntegrityRefused, match="2 columns of that name"):
        scorer.matrix(pd.concat([features, features[[NAMES[0]]]], axis=1))


def test_infinite_values_are_refused_and_unseen_and_missing_ones_scored(bundle):
    files, features = bundle
    scorer = Scorer.from_files(files)
    with pytest.raises(DataRefused, match="1 infinite"):
        scorer.matrix(features.assign(**{NAMES[0]: [np.inf] + [0.0] * 599}))
    odd = features.head(3).astype({"branch": object}).assign(branch=["never seen", None, "x"])
    odd[NAMES[0]] = [None, np.nan, 1.0]
    assert scorer.probabilities(odd)["pd"].between(0, 1).all()
    assert len(scorer.probabilities(features.head(0))) == 0


@pytest.mark.fault("G2")
def test_missing_or_torn_files_are_refused(bundle):
    files, _ = bundle
    with pytest.raises(IntegrityRefused, match="no such file") as refused:
        Scorer.from_files({"booster.txt": files["booster.txt"]})
    assert len(refused.value.problems) == 3
    for name in files:
        with pytest.raises(IntegrityRefused):
            Scorer.from_files({**files, name: files[name][: len(files[name]) // 2]})
    with pytest.raises(IntegrityRefused, match="codes of this feature"):
        Scorer.from_files({**files, "encoders.json": b'{"codes": {}, "smoothing": 1}'})
    with pytest.raises(IntegrityRefused, match="Promote the model"):
        Scorer.from_files(files).score(bundle[1])


def test_grades_join_the_pds(bundle):
    from models.grades import Scale

    files, features = bundle
    scale = Scale()
    scorer = Scorer.from_files({**files, "grades.json": scale.to_json().encode()})
    scored = scorer.score(features)
    assert list(scored.columns) == ["pd_raw", "pd", "pd_low", "pd_high", "score", "grade"]
    assert (scored["grade"].to_numpy() == scale.grade(scored["pd"].to_numpy())).all()
    assert scored["score"].corr(scored["pd"], method="spearman") < -0.99


def test_fingerprint_names_the_content(bundle):
    files, _ = bundle
    assert fingerprint(files) == fingerprint(dict(reversed(files.items())))
    assert fingerprint(files) != fingerprint({**files, "calibrator.json": b"{}"})
