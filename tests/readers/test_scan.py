"""Finding recordings with readers of made-up formats: what belongs to what, what is opened, what is remembered."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pytest

from readers.scan import Claim, Stamp, claimed_by, scan, stem_of, suffix_of

module = importlib.import_module("readers.scan")  # the package has a function of this name


class Format:
    """Takes files that begin with its mark; after it, one a line, stand the files that belong to it."""

    domains = ("mri",)

    def __init__(self, name: str, suffixes: Sequence[str], companions: Sequence[str] = (), mark: bytes = b"") -> None:
        self.name, self.suffixes, self.companions = name, tuple(suffixes), tuple(companions)
        self.mark, self.opened = mark, []

    def claims(self, path: Path, head: bytes) -> bool:
        self.opened.append(path.name)
        if head == b"explodes":
            raise IndexError
        return head.startswith(self.mark)

    def members(self, path: Path) -> Iterable[Path]:
        return [path.parent / name for name in path.read_text()[len(self.mark) :].split()]

    def groups(self, paths: Sequence[Path]) -> Iterable[tuple[Path, ...]]:
        """Files of the same first word are one recording."""
        assert len({path.parent for path in paths}) == 1
        found: dict[str, list[Path]] = {}
        for path in paths:
            found.setdefault(path.name.split("_")[0], []).append(path)
        return map(tuple, found.values())


def tree(top: Path, *files: str) -> Path:
    """Make files; ``a/b.x=text`` gives one its content."""
    for file in files:
        name, _, text = file.partition("=")
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)
    return top


def found(top: Path, *formats: Format, claims: object = None) -> tuple[list[list[str]], list[str]]:
    recordings, unclaimed = scan(top, formats, claims)
    return [[str(p.relative_to(top)) for p in group] for group in recordings], [str(p.relative_to(top)) for p in unclaimed]


@pytest.fixture
def nifti() -> Format:
    return Format("nifti", [".nii", ".nii.gz", ".hdr"], [".img"])


@pytest.mark.parametrize(
    ("name", "suffix", "stem"),
    [("a.nii.gz", ".nii.gz", "a"), ("A.b.NII.GZ", ".nii.gz", "A.b"), ("a.nii", ".nii", "a"), ("x.img", None, None)],
)
def test_a_suffix_of_two_parts(name, suffix, stem):
    assert suffix_of(name, [".gz", ".nii.gz", ".nii"]) == suffix
    if suffix:
        assert stem_of(name, suffix) == stem_of(Path("folder.nii.gz", name), suffix) == stem


def test_what_has_the_stem_of_a_recording_belongs_to_it(tmp_path, nifti):
    tree(tmp_path, "s1.nii.gz", "s1.json", "s1.tsv.gz", "s1.b.txt", "s10.json", "below/s1.json", "s2.HDR", "s2.IMG", "s3.img")
    assert found(tmp_path, nifti) == ([["s1.nii.gz"], ["s2.HDR"]], ["below/s1.json", "s1.b.txt", "s10.json", "s3.img"])


def test_a_companion_that_another_reader_takes(tmp_path, nifti):
    raw = Format("raw", [".img", ".nii.gz"])
    tree(tmp_path, "a.hdr", "a.img", "b.img", "c.nii.gz", "sub/a.img")
    assert found(tmp_path, nifti, raw) == ([["a.hdr"], ["b.img"], ["c.nii.gz"], ["sub/a.img"]], [])


def test_a_handle_is_not_its_own_companion(tmp_path):
    both = Format("both", [".hdr", ".img"], [".img"])
    tree(tmp_path, "a.hdr", "a.img", "b.img")
    assert found(tmp_path, both) == ([["a.hdr"], ["b.img"]], [])


def test_groups_are_of_one_folder_and_one_reader(tmp_path, nifti):
    sound = Format("sound", [".wav"])
    tree(tmp_path, "1/s1_T1w.nii", "1/s1_T2w.nii", "1/s2_T1w.nii", "1/s1_x.wav", "2/s1_T1w.nii", "s1_T1w.nii")
    assert found(tmp_path, nifti, sound)[0] == [
        ["1/s1_T1w.nii", "1/s1_T2w.nii"],
        ["1/s1_x.wav"],
        ["1/s2_T1w.nii"],
        ["2/s1_T1w.nii"],
        ["s1_T1w.nii"],
    ]


@pytest.mark.parametrize("relative", [False, True])
def test_members_here_and_in_other_folders(tmp_path, monkeypatch, relative):
    monkeypatch.chdir(tmp_path)
    text = Format("text", [".x"])
    tree(tmp_path, "a/m.x=s.x ../b/t.x gone.x c/u.dat", "a/s.x", "b/t.x", "b/own.x=own.x", "a/c/u.dat", "a/c/v.dat")
    top = Path() if relative else tmp_path
    assert scan(top, [text]) == ([(top / "a/m.x",), (top / "b/own.x",)], [top / "a/c/v.dat"])


def test_two_that_name_each_other_both_stay(tmp_path):
    tree(tmp_path, "a/1.x=../b/2.x", "b/2.x=../a/1.x", "3.x=4.x", "4.x=3.x")
    assert found(tmp_path, Format("text", [".x"])) == ([["3.x"], ["4.x"], ["a/1.x"], ["b/2.x"]], [])


def test_the_first_reader_that_claims_has_it(tmp_path):
    one, two = Format("one", [".x"], mark=b"1"), Format("two", [".x"], [".y"], mark=b"2")
    tree(tmp_path, "a.x=1", "b.x=2", "b.y", "c.x=3", "d.x=explodes")
    assert found(tmp_path, one, two) == ([["a.x"], ["b.x"], ["d.x"]], ["c.x"])


def test_recordings_sort_as_their_paths_do(tmp_path):
    names = ["b.x", "a/z.x", "a-b/y.x", "a/b/y.x", "a.x", "a/a.x", "B.x"]
    tree(tmp_path, *names, *(f"{name}.txt" for name in names))
    recordings, unclaimed = scan(tmp_path, [Format("text", [".x"])])
    assert [path for (path,) in recordings] == sorted(tmp_path / name for name in names)
    assert unclaimed == sorted(unclaimed) and len(unclaimed) == 7


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_what_is_no_file_is_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.x")  # opening it would wait for ever
    (tmp_path / "self.x").symlink_to("self.x")
    (tmp_path / "up").symlink_to(tmp_path)
    tree(tmp_path, "a.x", ".b.x", ".c/d.x")
    assert found(tmp_path, Format("text", [".x"])) == ([["a.x"]], ["pipe.x", "self.x"])


def test_only_files_whose_names_fit_are_opened_and_once(tmp_path):
    text = Format("text", [".x"])
    found(tree(tmp_path, "a.x", "b.y", "c", "d/e.X"), text)
    assert sorted(text.opened) == ["a.x", "e.X"]


def test_threads_change_nothing(tmp_path, monkeypatch):
    tree(tmp_path, *(f"{n % 7}/{n}.x=m{n}.x" for n in range(300)), *(f"{n % 7}/m{n}.x" for n in range(0, 300, 2)))
    alone = found(tmp_path, Format("text", [".x"]))
    monkeypatch.setattr(module, "CHUNK", 8)
    monkeypatch.setattr(module.time, "thread_time", lambda: 0.0)  # as if all the time were spent waiting
    assert found(tmp_path, Format("text", [".x"])) == alone
    assert len(alone[0]) == 300


class Memory:
    """Claims in a dictionary."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, str], tuple[Stamp, Claim]] = {}
        self.kept: list[str] = []

    def recall(self, folder: str, stamps: Mapping[str, Stamp]) -> Mapping[str, Claim]:
        had = {name: self.known.get((folder, name)) for name in stamps}
        return {name: one[1] for name, one in had.items() if one and one[0] == stamps[name]}

    def keep(self, folder: str, stamps: Mapping[str, Stamp], claims: Mapping[str, Claim]) -> None:
        self.kept.append(os.path.basename(folder))
        self.known.update({(folder, name): (stamps[name], claim) for name, claim in claims.items()})


def test_what_is_remembered_is_not_opened(tmp_path):
    text, memory = Format("text", [".x"], mark=b"t"), Memory()
    tree(tmp_path, "a/1.x=t2.x ../b/4.x", "a/2.x=t", "a/3.x=no", "b/4.x=t", "b/5.x=t")
    first = found(tmp_path, text, claims=memory)
    assert first == found(tmp_path, text) == ([["a/1.x"], ["b/5.x"]], ["a/3.x"])
    text.opened.clear()
    memory.kept.clear()
    assert found(tmp_path, text, claims=memory) == first
    assert text.opened == memory.kept == []
    tree(tmp_path, "a/1.x=t now nothing of it")
    assert found(tmp_path, text, claims=memory) == ([["a/1.x"], ["a/2.x"], ["b/4.x"], ["b/5.x"]], ["a/3.x"])
    assert text.opened == ["1.x"] and memory.kept == ["a"]


def test_what_is_remembered_of_a_reader_that_is_gone_is_found_out_anew(tmp_path):
    memory = Memory()
    tree(tmp_path, "1.x=2.x", "2.x")
    found(tmp_path, Format("old", [".x"]), claims=memory)
    text = Format("new", [".x"])
    assert found(tmp_path, text, claims=memory) == ([["1.x"]], [])
    assert text.opened == ["1.x", "2.x"]


def test_a_file_that_cannot_be_opened_goes_by_its_name_and_is_not_remembered(tmp_path, monkeypatch):
    tree(tmp_path, "1.x=2", "2.x=2")
    one, two, memory = Format("one", [".x"], mark=b"1"), Format("two", [".x"], mark=b"2"), Memory()

    def fail(path, *more, **options):
        if Path(path).name == "1.x":
            raise PermissionError
        return open(path, *more, **options)

    monkeypatch.setattr(module, "open", fail, raising=False)
    assert claimed_by(tmp_path / "1.x", [one, two]) is one
    assert claimed_by(tmp_path / "2.x", [one, two]) is two
    assert found(tmp_path, one, two, claims=memory) == ([["1.x"], ["2.x"]], [])
    assert [name for _, name in memory.known] == ["2.x"]


def test_a_claim_is_by_name_and_content(tmp_path):
    one, two = Format("one", [".x"], mark=b"1"), Format("two", [".x", ".y.x"], mark=b"2")
    tree(tmp_path, "a.X=2", "a.txt=2", "b.x=3", "folder.x/c")
    names = {path.name: claimed_by(path, [one, two]) for path in [*tmp_path.iterdir(), tmp_path / "gone.x"]}
    assert names == {"a.X": two, "a.txt": None, "b.x": None, "folder.x": None, "gone.x": None}
