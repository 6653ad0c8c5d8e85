"""What tests say of a published book: which version is current, what stands where, by bytes."""

from __future__ import annotations

from pathlib import Path

from fault_ground import tree

from pipeline import versions


def republish() -> None:
    """Alter the page, so that publishing makes another version."""
    page = Path("data/report/index.html")
    page.write_text(page.read_text() + "<!-- another -->\n")


def whole(folder: Path = versions.PUBLISH) -> str:
    """Return the version that `current` points to, after it was hashed: never missing, torn or mixed."""
    current = folder / "current"
    version = current.resolve()
    assert not versions.faults(version), versions.faults(version)
    return version.name


def bytes_of(folder: Path) -> dict[str, str]:
    """Return a tree by hash, but for DuckDB's files and, of a publication, what states their hash."""
    states_it = {str(path.parent.relative_to(folder)) for path in folder.rglob("*.duckdb")}
    return {
        name: digest
        for name, digest in tree(folder).items()
        if not name.endswith(".duckdb") and not (name.endswith("manifest.json") and str(Path(name).parent) in states_it)
    }
