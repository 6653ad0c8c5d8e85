"""F5 to F7, G8: what reaches the disk in which order, disks that are full, broken, closed or open to everybody."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from fault_book import republish, whole
from fault_ground import ended, tree

from features.errors import ConfigurationRefused
from pipeline import __main__ as command_line
from pipeline import healing, ingest, publish, run, versions

fault = pytest.mark.fault
fault = pytest.mark.fault
can_mount = pytest.mark.skipif(
    os.getuid() != 0 or subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode != 0,
    reason="needs the right to mount a small disk",
)


# --- F5: the order in which a publication reaches the disk


@fault("F5")
def test_data_is_on_the_disk_before_anything_points_to_it(book, monkeypatch):
    republish()
    monkeypatch.setattr(publish, "_track", lambda *_: None)
    log: list[tuple[str, str]] = []
    fsync, rename, replace = os.fsync, Path.rename, Path.replace
    monkeypatch.setattr(
        os, "fsync", lambda fd: (log.append(("sync", str(Path(f"/proc/self/fd/{fd}").readlink()))), fsync(fd))[1]
    )
    monkeypatch.setattr(Path, "rename", lambda p, t: (log.append(("rename", str(Path(t).absolute()))), rename(p, t))[1])
    monkeypatch.setattr(
        Path, "replace", lambda p, t: (log.append(("replace", str(Path(t).absolute()))), replace(p, t))[1]
    )
    publish.main()
    version = whole()
    placed = log.index(("rename", str(book.folder / f"data/publish/versions/{version}")))
    pointed = log.index(("replace", str(book.folder / "data/publish/current")))
    synced = {path.partition(f".tmp-{version}")[2] for kind, path in log[:placed] if kind == "sync"}
    there = {f"/{path.relative_to(versions.VERSIONS / version)}" for path in (versions.VERSIONS / version).rglob("*")}
    assert there | {""} <= synced
    after = [path for kind, path in log[placed:pointed] if kind == "sync"]
    assert str(book.folder / "data/publish/versions") in after
    assert str(book.folder / "data/publish/history.jsonl") in after
    assert str(book.folder / "data/publish") in [path for kind, path in log[pointed:] if kind == "sync"]


# --- F6, F7: disks that are full, broken or closed


@contextlib.contextmanager
def disk(place: Path, size: int):
    """Mount a small disk."""
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        os.chdir("/")
        subprocess.run(["umount", "-l", str(place)], check=True)


@can_mount
@fault("F6")
def test_a_disk_that_fills_up_anywhere_in_publish(book, tmp_path, monkeypatch):
    """64 KiB more each time until it succeeds: exit code 5, the old table whole, no litter."""
    republish()
    monkeypatch.setattr(publish, "_track", lambda *_: None)
    size = sum(
        path.stat().st_size + 4096 for path in book.folder.rglob("*") if path.is_file() and not path.is_symlink()
    )
    codes = []
    with disk(tmp_path / "disk", 2 * size + (8 << 20)) as place:
        shutil.copytree(book.folder / "data", place / "data", symlinks=True)
        shutil.copy(book.folder / "params.yaml", place)
        shutil.copy(book.folder / "dvc.lock", place)
        (place / "requirements").mkdir()
        shutil.copy(book.folder / "requirements/run.lock", place / "requirements")
        monkeypatch.chdir(place)
        before = whole()
        for step in range(200):
            ballast = place / "ballast"
            free = shutil.disk_usage(place).free - (step << 16)
            with ballast.open("wb") as stream:
                os.posix_fallocate(stream.fileno(), 0, max(free, 1))
            found = ended("publish", publish.main, tmp_path / "failure.json")
            codes.append(found.code)
            assert not [path for path in (place / "data").rglob("*") if path.name.startswith(".tmp-")]
            ballast.unlink()
            if found.code == 0:
                break
            assert found.code == 5, found.said
            assert "MiB free" in found.err
            assert whole() == before
        assert codes[-1] == 0
        assert len(codes) > 3
        assert whole() != before


@can_mount
@fault("F6")
def test_a_disk_that_fills_up_anywhere_in_ingest(shop, tmp_path, monkeypatch):
    """16 KiB more each time until it succeeds; then the bytes of an ingest that had room."""
    shop.accepted()
    right = shop.tables()
    shutil.rmtree(shop.folder / "data/ingest")
    codes = []
    with disk(tmp_path / "disk", 32 << 20) as place:
        shutil.copytree(shop.folder, place / "project", symlinks=True)
        monkeypatch.chdir(place / "project")
        for step in range(200):
            with (place / "ballast").open("wb") as stream:
                os.posix_fallocate(stream.fileno(), 0, max(shutil.disk_usage(place).free - (step << 14), 1))
            found = ended("ingest", ingest.main, tmp_path / "failure.json")
            codes.append(found.code)
            (place / "ballast").unlink()
            if found.code == 0:
                break
            assert found.code == 5, found.said
            if Path("data/ingest/ledger.json").exists():  # then all that it answers for stands
                stated = json.loads(Path("data/ingest/ledger.json").read_text())["outputs"]
                assert stated.items() <= tree(Path("data/ingest")).items()
        assert codes[-1] == 0
        assert len(codes) > 3
        assert tree(Path("data/ingest/tables")) == right


@fault("F6")
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize("lasting", [False, True])
def test_an_error_of_the_disk_at_the_nth_write_of_publish(lasting, number, book, tmp_path, monkeypatch):
    """N counts up until it succeeds, over what Python writes, copies and syncs; test_fault_writes tries every write."""
    republish()
    before = whole()
    monkeypatch.setattr(publish, "_track", lambda *_: None)
    left = [0]

    def failing(real):
        def call(*arguments, **more):
            left[0] -= 1
            if left[0] == 0 or (lasting and left[0] < 0):
                raise OSError(number, os.strerror(number))
            return real(*arguments, **more)

        return call

    step = 3 if lasting is False and number == errno.EIO else 19
    for nth in range(1, 2000, step):
        left[0] = nth
        with monkeypatch.context() as patched:
            patched.setattr(versions, "sync", failing(versions.sync))
            patched.setattr(shutil, "copyfile", failing(shutil.copyfile))
            patched.setattr(Path, "write_text", failing(Path.write_text))
            patched.setattr(pq, "write_table", failing(pq.write_table))
            found = ended("publish", publish.main, tmp_path / "failure.json")
        if found.code == 0:
            break
        assert found.code == 5, found.said
        whole()
        healing.heal()
        assert not list(versions.VERSIONS.glob(".tmp-*"))
    assert nth > step
    assert whole() != before


@can_mount
@fault("F7")
def test_a_disk_that_is_closed_to_writing(book, tmp_path):
    with disk(tmp_path / "disk", 256 << 20) as place:
        shutil.copytree(book.folder, place / "project", symlinks=True)
        before = tree(place / "project/data/publish")
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        os.chdir(place / "project")
        assert command_line.main(["run"]) == 5
        assert tree(place / "project/data/publish") == before


@fault("F7")
def test_no_right_to_write_is_seen_before_any_work(book, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, _mode: "publish" not in str(path))
    monkeypatch.setattr(run, "dvc", lambda *_: pytest.fail("work began"))
    assert command_line.main(["run"]) == 5


@fault("F7", "G8")
def test_a_mask_of_zero_opens_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = os.umask(0)
    try:
        with run.owned():
            Path("made").mkdir()
            Path("made/file").touch()
        assert not [path for path in tmp_path.rglob("*") if path.stat().st_mode & 0o002]
    finally:
        os.umask(before)


@fault("F7")
def test_a_publication_behind_a_link_is_published_there(book, tmp_path, monkeypatch):
    shutil.move("data/publish", tmp_path / "elsewhere")
    Path("data/publish").symlink_to(tmp_path / "elsewhere")
    republish()
    before = whole()
    monkeypatch.setattr(publish, "_track", lambda *_: None)
    publish.main()
    assert whole() != before
    assert whole(tmp_path / "elsewhere") == whole()


@fault("G8")
@pytest.mark.parametrize("folder", [".dvc/tmp", ".dvc/cache", "mlruns", ".run", "data/promote", "data/journal"])
def test_a_folder_open_to_every_user_is_refused(folder, book):
    Path(folder).mkdir(parents=True, exist_ok=True)
    Path(folder).chmod(0o777)
    with pytest.raises(ConfigurationRefused, match="0777"):
        run.preflight()


@fault("G8")
def test_a_site_cache_that_was_open_is_emptied_and_closed(book):
    site = Path(".dvc/tmp/site")
    (site / "repo").mkdir(parents=True, exist_ok=True)
    (site / "repo/planted").touch()
    site.chmod(0o777)
    healing.heal()
    assert list(site.iterdir()) == []
    assert not site.stat().st_mode & 0o077


@fault("G8")
def test_dvc_keeps_its_site_cache_in_the_workspace(lender):
    assert "site_cache_dir = .dvc/tmp/site" in (lender.folder / ".dvc/config").read_text()
    assert not (lender.folder / ".dvc/tmp/site").stat().st_mode & 0o077
    assert not (lender.folder / "mlruns").stat().st_mode & 0o077
    assert not (lender.folder / ".run").stat().st_mode & 0o077
