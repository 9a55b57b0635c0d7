from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import readers
from readers import claim, open_recording, scan
from readers.cardiac import WfdbReader, create_wfdb
from readers.schema import ReadError
from tests import audio_files, eeg_files, eeg_mne_files, mri_files, points_files, wfdb_files
from tests.bad_files import BAD, GOOD

MAKERS = {
    "cardiac": wfdb_files.FORMATS,
    "eeg": {**eeg_files.FORMATS, **eeg_mne_files.FORMATS},
    "mri": mri_files.FORMATS,
    "audio": audio_files.FORMATS,
    "points": points_files.FORMATS,
}


def handles(folder):
    """What ``scan`` finds, where every recording is one file."""
    groups, unclaimed = scan(folder)
    assert all(len(group) == 1 for group in groups)
    return [group[0] for group in groups], unclaimed


def make(folder, name):
    options = {"rate_hz": 100, "names": ["II"], "units": ["mV"], "annotations": [(0.1, "N")]}
    return create_wfdb(folder, name, np.random.default_rng(0).normal(size=(50, 1)), **options)


def test_import_is_light():
    code = "import readers, sys; print([m for m in ('wfdb', 'pandas', 'scipy', 'torch', 'mne') if m in sys.modules])"
    root = os.path.dirname(os.path.dirname(readers.__file__))
    assert subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True).stdout == "[]\n"


def test_scan_counts_a_record_once(tmp_path):
    paths = [make(tmp_path / "b", "r2"), make(tmp_path / "a", "r1")]
    (tmp_path / "a" / "r1.mat").write_bytes(b"x")
    (tmp_path / "a" / "r1.txt").write_bytes(b"x")
    (tmp_path / "README.md").write_text("hello")
    (tmp_path / ".hidden").mkdir()
    make(tmp_path / ".hidden", "r3")
    (tmp_path / "a" / ".r9.hea.part").write_text("")
    assert handles(tmp_path) == (sorted(paths), [tmp_path / "README.md"])


def test_segments_belong_to_their_master(tmp_path):
    make(tmp_path, "s0")
    make(tmp_path, "s1")
    (tmp_path / "m.hea").write_text("m/2 1 100 100\ns0 50\ns1 50\n")
    assert handles(tmp_path) == ([tmp_path / "m.hea"], [])
    assert open_recording(tmp_path / "m.hea").axes.duration_s == 1.0


def test_headers_that_name_each_other_do_not_loop(tmp_path):
    (tmp_path / "a.hea").write_text("a/1 1 100 100\nb 100\n")
    (tmp_path / "b.hea").write_text("b/1 1 100 100\na 100\n")
    assert handles(tmp_path) == ([tmp_path / "a.hea", tmp_path / "b.hea"], [])
    with pytest.raises(ReadError):
        open_recording(tmp_path / "a.hea")


def test_what_only_looks_like_a_header(tmp_path):
    (tmp_path / "image.hea").write_text("ENVI\nsamples = 3\n")
    (tmp_path / "empty.hea").write_bytes(b"")
    (tmp_path / "folder.hea").mkdir()
    make(tmp_path / "folder.hea", "r")
    found, unclaimed = handles(tmp_path)
    assert found == [tmp_path / "empty.hea", tmp_path / "folder.hea" / "r.hea"]
    assert unclaimed == [tmp_path / "image.hea"]
    assert claim(tmp_path / "image.hea") is None and claim(tmp_path / "folder.hea") is None
    for name, reason in [("image.hea", "no format"), ("empty.hea", "is empty"), ("gone.hea", "does not exist")]:
        with pytest.raises(ReadError, match=f"{name}.*{reason}"):
            open_recording(tmp_path / name)


def test_links(tmp_path):
    path = make(tmp_path / "a", "r1")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "broken.hea").symlink_to(tmp_path / "nowhere.hea")
    assert handles(tmp_path) == ([path], [tmp_path / "broken.hea"])


@pytest.mark.parametrize(("domain", "name"), [(domain, name) for domain, makers in MAKERS.items() for name in makers])
def test_every_format_is_one_recording_of_its_domain(tmp_path, domain, name):
    path = MAKERS[domain][name](tmp_path)
    found, unclaimed = scan(tmp_path)
    assert found == [(path,)] and unclaimed == []
    assert open_recording(path).domain == domain
    assert os.path.realpath(open_recording(path).files[0]) == os.path.realpath(path)


@pytest.mark.parametrize(("domain", "name"), [(d, n) for d, cases in BAD.items() for n, case in cases.items() if not case.opens])
def test_what_cannot_be_opened_says_why(tmp_path, domain, name):
    case = BAD[domain][name]
    path = case.make(tmp_path)
    with pytest.raises(ReadError, match="no format" if case.reason is None else case.reason) as caught:
        open_recording(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", sorted({suffix for reader in readers.READERS for suffix in reader.suffixes}))
def test_what_would_be_waited_for_is_never_opened(tmp_path, suffix):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / f"inside{suffix}").mkdir()
    os.mkfifo(tmp_path / f"pipe{suffix}")
    (tmp_path / f"device{suffix}").symlink_to("/dev/zero")
    (tmp_path / f"loop{suffix}").symlink_to(f"loop{suffix}")
    assert handles(tmp_path) == ([], sorted(tmp_path / f"{name}{suffix}" for name in ("device", "loop", "pipe")))
    for name, reason in [("pipe", "is not a file"), ("device", "is not a file"), ("loop", "does not exist")]:
        with pytest.raises(ReadError, match=f"{name}{suffix} {reason}"):
            open_recording(tmp_path / f"{name}{suffix}")
    with pytest.raises(ReadError, match="is a folder"):
        open_recording(tmp_path / "folder" / f"inside{suffix}")


@pytest.mark.parametrize("domain", list(GOOD))
def test_a_name_as_long_as_a_file_system_takes(tmp_path, domain):
    if domain == "cardiac":
        pytest.skip("the header names its signal file")
    path = GOOD[domain](tmp_path)
    long = path.rename(path.with_name("x" * (255 - len(path.suffix)) + path.suffix))
    assert handles(tmp_path) == ([long], [])
    assert open_recording(long).domain == domain


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_that_cannot_be_listed_is_reported(tmp_path):
    (tmp_path / "locked").mkdir(mode=0)
    assert handles(tmp_path) == ([], [tmp_path / "locked"])


def test_scan_of_no_folder(tmp_path):
    with pytest.raises(ReadError):
        handles(tmp_path / "nothing")


def test_anything_that_a_format_library_raises_is_a_reason(tmp_path, monkeypatch):
    path = make(tmp_path, "r")
    for error in (MemoryError(), OverflowError("too big"), IndexError("list index\nout of range")):

        def fail(self, path, error=error):
            raise error

        monkeypatch.setattr(WfdbReader, "open", fail)
        with pytest.raises(ReadError, match=r"r\.hea cannot be read as wfdb: \w+Error, .+") as caught:
            open_recording(path)
        assert "\n" not in str(caught.value)


def test_real_folders(shared):
    found, unclaimed = handles(shared / "ecg")
    assert len(found) == 14 and {path.suffix for path in unclaimed} == {".csv", ".md"}
