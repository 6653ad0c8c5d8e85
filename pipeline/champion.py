"""`python -m pipeline champion`: who scores, and how a person changes it, with author and reason."""

from __future__ import annotations

from pipeline import bundle, tracking
from pipeline.params import source_name
from pipeline.promote import ROOT, Params
from pipeline.run import owned
from pipeline.stage import read_json


def show() -> int:
    """Print the champion and the stored versions of the chosen source."""
    source = source_name()
    version = bundle.champion_version(source)
    print(f"champion of {source}: {version or 'none'}")
    if version:
        pointer = read_json(bundle.CHAMPION / f"{source}.json")
        print(f"set by {pointer['author']}: {pointer['reason']}")
    for folder in sorted((bundle.BUNDLES / source).glob("*")):
        verdict = ROOT / "verdicts" / source / f"{folder.name}.json"
        decision = read_json(verdict)["decision"] if verdict.exists() else "not judged"
        print(f"  {folder.name}  {decision}")
    return 0


def set_champion(version: str, *, author: str, reason: str) -> int:
    """Make a stored version the champion; it sticks, for the verdicts on its rivals stay on record."""
    source = source_name()
    params = Params.load()
    with owned():
        bundle.INTENDED.unlink(missing_ok=True)  # what a killed run had in mind counts no more
        bundle.make_champion(source, version, author=author, reason=reason)
        bundle.note_change(
            source, model_version=version, decision="set by hand", author=author, reasons=[reason], champion=version
        )
        tracking.mirror_champion(source, params.registry, version, strict=params.tracking_strict)
    print(f"champion of {source} is {version}; `python -m pipeline run` scores and publishes with it")
    return 0
