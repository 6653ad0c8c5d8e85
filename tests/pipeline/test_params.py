"""Parameters: typed, unknown keys refused, all faults at once, a source's override laid over the defaults."""

from __future__ import annotations

import importlib
from typing import ClassVar

import pytest
from pydantic import Field
from workspaces import ROOT

from features.errors import ConfigurationRefused
from pipeline import params as parameters
from pipeline.params import STAGES, Part, Section


class Inner(Part):
    low: int = 1
    high: int = 9


class Params(Section):
    section: ClassVar[str] = "train"

    rate: float = Field(default=0.1, gt=0, lt=1)
    until: str | None = None
    inner: Inner = Inner()


def write(tmp_path, monkeypatch, text: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(text)


def test_an_override_is_laid_over_the_section_value_by_value(tmp_path, monkeypatch):
    write(
        tmp_path,
        monkeypatch,
        "source: a\ntrain: {rate: 0.2, inner: {low: 2}}\nsources: {a: {train: {inner: {high: 5}}}, b: {train: {rate: 0.9}}}",
    )
    loaded = Params.load()
    assert (loaded.rate, loaded.inner.low, loaded.inner.high) == (0.2, 2, 5)


def test_all_faults_of_a_section_are_refused_together_with_their_place(tmp_path, monkeypatch):
    write(tmp_path, monkeypatch, "source: a\ntrain: {rate: 2, rat: 1}\nsources: {a: {train: {inner: {lo: 1}}}}")
    with pytest.raises(ConfigurationRefused) as refused:
        Params.load()
    places = {problem.where for problem in refused.value.problems}
    assert places == {"params.yaml: train.rate", "params.yaml: train.rat", "params.yaml: sources.a.train.inner.lo"}


@pytest.mark.parametrize(
    "text",
    [
        "- 1",
        "source: [",
        "source: ../x",
        "source: a\nunknown: 1",
        "source: a\nsources: {a: {simulate: {}}}",
        "source: a\nsources: 3",
        "{}",
    ],
)
def test_a_file_that_cannot_be_parameters_is_refused(tmp_path, monkeypatch, text):
    write(tmp_path, monkeypatch, text)
    with pytest.raises(ConfigurationRefused):
        parameters.read_params()


@pytest.mark.parametrize("as_of", ["tomorrow", "2026/01/01"])
@pytest.mark.fault("D8")
def test_an_as_of_that_is_no_date_is_refused(tmp_path, monkeypatch, as_of):
    write(tmp_path, monkeypatch, f"source: a\nas_of: {as_of}")
    with pytest.raises(ConfigurationRefused):
        parameters.resolved_as_of()


@pytest.mark.parametrize("stage", STAGES)
def test_every_section_of_the_shipped_file_is_typed_and_refuses_an_unknown_key(monkeypatch, tmp_path, stage):
    monkeypatch.chdir(ROOT)
    section = importlib.import_module(f"pipeline.{stage}").Params
    loaded = section.load()
    assert section.model_config["frozen"]
    text = (ROOT / "params.yaml").read_text().replace(f"\n{stage}:", f"\n{stage}:\n  no_such_key: 1", 1)
    write(tmp_path, monkeypatch, text)
    with pytest.raises(ConfigurationRefused, match="no_such_key"):
        section.load()
    assert loaded is not None
