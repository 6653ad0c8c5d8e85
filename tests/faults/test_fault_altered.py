"""G1 to G3, E12: what was altered or is of another kind is refused before it is parsed."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
from fault_ground import ended, tree

from features.errors import ConfigurationRefused, IntegrityRefused, Problem
from pipeline import __main__ as command_line
from pipeline import bundle, held, promote, run, score, versions

fault = pytest.mark.fault


# --- G1, G2, G3: what was altered


@fault("G1")
@pytest.mark.parametrize("case", range(6))
def test_an_altered_object_of_the_cache_is_named(case, book, draw):
    objects = sorted(path for path in Path(".dvc/cache/files/md5").glob("??/*") if path.stat().st_size)
    path = draw.choice(objects)
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(bytes(data))
    with pytest.raises(IntegrityRefused) as refused:
        versions.verify(held.faults()[1])
    assert any(str(path) == problem.where for problem in refused.value.problems)


@fault("G1")
@pytest.mark.parametrize("name", [
    "data/select/parts.parquet", "data/featurise/training/features.parquet", "data/tune/trials.parquet",
    "data/ingest/tables/observations/known_month=2023-12/part.parquet", "data/decide/table.parquet",
    "data/publish/current/scored_customers.parquet", "data/promote/champion/flat/booster.txt",
])  # fmt: skip
def test_an_edit_of_the_same_size_and_time_is_named(name, book, draw):
    path = Path(name)
    data, state = bytearray(path.read_bytes()), path.stat()
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    if path.stat().st_nlink > 1 or not os.access(path, os.W_OK):
        path.unlink()
    path.write_bytes(bytes(data))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert command_line.main(["verify"]) == 7
    _, problems = held.faults()
    told = [*problems, *(p for folder in versions.folders() for p in versions.faults(folder)),
            *versions.faults(Path("data/promote/champion/flat"))]  # fmt: skip
    assert any(Path(problem.where).resolve() == path.resolve() for problem in told)


@fault("G1")
def test_what_is_sound_passes(lender, monkeypatch, capsys):
    monkeypatch.chdir(lender.folder)
    count, problems = held.faults()
    assert problems == []
    assert count > 50
    assert versions.verify(problems, count) == 0


@fault("G2")
@pytest.mark.parametrize(
    "name", ["booster.txt", "encoders.json", "features.json", "calibrator.json", "grades.json", "reference.parquet"]
)
@pytest.mark.parametrize("how", ["cut", "flipped", "a line less", "empty", "of another run"])
def test_a_changed_file_of_the_scorer_is_refused_before_it_is_parsed(how, name, book, draw, tmp_path):
    path = Path("data/promote/scorer") / name
    data = bytearray(path.read_bytes())
    if how == "cut":
        del data[draw.randrange(1, len(data)) :]
    elif how == "flipped":
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    elif how == "a line less":
        lines = bytes(data).splitlines(keepends=True)
        del lines[draw.randrange(len(lines))]
        data = bytearray(b"".join(lines))
    elif how == "empty":
        data = bytearray()
    else:
        data = bytearray(bytes(data) + b" ")
    path.write_bytes(bytes(data))
    found = ended("score", score.main, tmp_path / "failure.json")
    assert found.code == 7, found.said
    assert name in found.err


def disguised(kind: str, marker: Path) -> bytes:
    class Loud:
        def __reduce__(self):
            return (Path.touch, (marker,))

    if kind == "pickle":
        return pickle.dumps(Loud())
    if kind == "joblib":
        import io

        import joblib

        joblib.dump(Loud(), out := io.BytesIO())
        return out.getvalue()
    if kind == "cloudpickle":
        import cloudpickle

        return cloudpickle.dumps(Loud())
    return b"PK\x03\x04" + pickle.dumps(Loud())


@fault("G3")
@pytest.mark.parametrize("name", ["booster.txt", "encoders.json", "calibrator.json"])
@pytest.mark.parametrize("kind", ["pickle", "joblib", "cloudpickle", "skops"])
def test_a_pickle_offered_as_a_model_runs_nothing(kind, name, book, tmp_path):
    """Even where its hash is stated as it should be."""
    marker = tmp_path / "was-run"
    folder = Path("data/promote/scorer")
    facts = {key: value for key, value in bundle.manifest(folder).items() if key != "files"}
    files = {**bundle.read(folder), name: disguised(kind, marker)}
    bundle.write(folder, files, **facts)
    found = ended("score", score.main, tmp_path / "failure.json")
    assert found.code == 7, found.said
    assert not marker.exists()


@fault("G3")
def test_mlflow_may_not_read_a_pickle():
    assert os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"


@fault("E12")
def test_figures_of_another_model_are_refused(book, tmp_path, monkeypatch):
    monkeypatch.setattr(promote, "_track", lambda *_: None)
    assert ended("promote", promote.main, tmp_path / "failure.json").code == 0
    before = tree(Path("data/promote"))
    metrics = json.loads(Path("data/evaluate/metrics.json").read_text())
    Path("data/evaluate/metrics.json").unlink()
    Path("data/evaluate/metrics.json").write_text(json.dumps(metrics | {"model_sha256": "0" * 64}))
    found = ended("promote", promote.main, tmp_path / "failure.json")
    assert found.code == 7, found.said
    assert "another model" in found.err
    assert tree(Path("data/promote")) == before


def alter(path: Path, at: int) -> None:
    """Flip a bit; size and time of change stay, so that DVC sees nothing."""
    data, before = bytearray(path.read_bytes()), path.stat()
    data[at] ^= 1
    path.chmod(0o644)
    path.write_bytes(bytes(data))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@fault("G1")
@pytest.mark.parametrize("what", ["an output", "an object of the cache"])
def test_a_run_refuses_what_was_altered_since_the_last_one_ended_well(what, book, draw, monkeypatch, capsys):
    """DVC would call the output up to date, and check the object out."""
    monkeypatch.setattr(run, "dvc", lambda *_, **__: pytest.fail("DVC began"))
    held.note()
    path = Path("data/select/parts.parquet")
    if what != "an output":
        path = draw.choice([each for each in Path(".dvc/cache/files/md5").glob("??/*") if each.stat().st_size])
    alter(path, draw.randrange(path.stat().st_size))
    before = tree(Path("data/publish"))
    assert command_line.main(["run"]) == 7
    assert str(path) in capsys.readouterr().err
    assert tree(Path("data/publish")) == before


@fault("G1", "F1")
def test_what_a_stage_that_failed_left_is_no_alteration(book, tmp_path):
    """Its folder is not what dvc.lock states, and DVC makes it anew: nobody has to remove anything."""
    held.note()
    alter(Path("data/select/parts.parquet"), 40)
    assert len(held.altered()) == 1

    def fails() -> None:
        raise ConfigurationRefused(Problem("here", "well", "ill", "Wait."))

    assert ended("select", fails, tmp_path / "failure.json").code == 4
    assert held.altered() == []


@fault("G1")
def test_another_lock_or_a_file_written_again_alike_is_no_alteration(book):
    held.note()
    path = Path("data/select/parts.parquet")
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    assert held.altered() == []
    alter(path, 40)
    assert [problem.where for problem in held.altered()] == [str(path)]
    lock = Path("dvc.lock")
    lock.write_text(lock.read_text() + "\n")
    assert held.altered() == []
