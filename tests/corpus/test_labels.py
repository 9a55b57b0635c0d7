import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.corpus import labels
from toolkit.corpus.labels import PathMatcher, match_windows
from toolkit.errors import UsageError


def table(tmp_path, text):
    path = tmp_path / "labels.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return labels.read(path)


def test_cells_stay_text_and_intervals_become_seconds(tmp_path):
    got = table(tmp_path, "path,label,start,stop,age\nr1.hea,NA,0,10.5,007\nr1.hea,N;V, 1e1 ,20,\nr2.hea,,,,nan\n")
    assert got.rows["label"].tolist() == ["NA", "N;V", ""] and got.rows["age"].tolist() == ["007", "", "nan"]
    np.testing.assert_array_equal(got.rows["start"], [0, 10, np.nan])
    np.testing.assert_array_equal(got.rows["stop"], [10.5, 20, np.nan])
    assert table(tmp_path, "path,label\nr1,N\n").rows["start"].isna().all()


def test_a_byte_order_mark_and_quotes_are_read(tmp_path):
    got = table(tmp_path, b'\xef\xbb\xbfpath,label\r\n"a, b.hea","x ""y"""\r\n')
    assert got.rows["path"].tolist() == ["a, b.hea"] and got.rows["label"].tolist() == ['x "y"']


@pytest.mark.filterwarnings("ignore:Length of header")
def test_commas_at_the_end_of_every_row_move_no_cell(tmp_path):
    got = table(tmp_path, "path,label\nr1,N,\nr2,V,\n")
    assert got.rows["path"].tolist() == ["r1", "r2"] and got.rows["label"].tolist() == ["N", "V"]


def test_a_short_row_has_empty_cells(tmp_path):
    got = table(tmp_path, "path,label,start,stop\nr1,N,0,1\nr2,V\n")
    assert got.rows["label"].tolist() == ["N", "V"] and np.isnan(got.rows["start"][1])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("file,label\nr1,N\n", ["no column 'path'", "file, label"]),
        ("path,label\n", ["no row"]),
        ("", ["cannot be read"]),
        (b"path,label\n\xff,x\n", ["cannot be read"]),
        ("path,label\nr1,N\nr2,V,more\n", ["cannot be read", "line 3"]),
        ("path,start,stop\nr1,0,1\nr2,soon,3\n", ["row 3", "start", "'soon'", "seconds"]),
        ("path,start,stop\nr1,nan,3\n", ["row 2", "start", "'nan'"]),
        ("path,start,stop\nr1,0,1\nr1,5,\n", ["row 3", "both be given", "5.0", "nan"]),
        ("path,start\nr1,5\n", ["row 2", "both be given"]),
        ("path,start,stop\nr1,5,5\n", ["row 2", "later", "5.0"]),
        ("path,start,stop\nr1,5,4\n", ["row 2", "later"]),
    ],
)
def test_a_table_that_cannot_be_used_is_named_with_its_row(tmp_path, text, words):
    with pytest.raises(UsageError) as error:
        table(tmp_path, text)
    assert error.value.exit_code == 2
    assert all(word in str(error.value) for word in ["labels.csv", *words]), str(error.value)


def test_a_column_that_is_not_there_offers_the_nearest(tmp_path):
    got = table(tmp_path, "path,rhythm\nr1,N\n")
    assert got.column("rhythm", "--target").tolist() == ["N"]
    with pytest.raises(UsageError, match=r"no column 'rythm' \(--target\)\. Did you mean 'rhythm'"):
        got.column("rythm", "--target")


def test_a_path_is_relative_to_the_csv_to_data_or_absolute(tmp_path):
    recordings = [str(tmp_path / p) for p in ("data/a/r1.hea", "data/b/r1.hea", "data/b/r2.v1.hea", "tables/r3.hea")]
    matcher = PathMatcher(recordings, [tmp_path / "data"], tmp_path / "tables" / "labels.csv")
    for path, row in [
        ("a/r1.hea", 0),
        ("b/r1.hea", 1),
        ("a/r1", 0),
        ("a/r1.dat", 0),
        ("./b/../a/r1.hea", 0),
        ("../data/b/r1.hea", 1),
        (recordings[1], 1),
        ("r3.hea", 3),
        ("b/r2.v1.hea", 2),
        ("b/r2.v1", 2),
    ]:
        assert matcher.find(path) == recordings[row], path
    for path in ("c/r1.hea", "r9.hea", "/elsewhere/data/a/r1.hea", "", ".", "..", "/", "b", "r2"):
        assert matcher.find(path) is None, path


def test_a_relative_path_is_found_from_the_working_folder_as_given(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    assert PathMatcher(["data/r1.hea"], [Path("data")], Path("l.csv")).find("r1.hea") == "data/r1.hea"
    assert PathMatcher(["data/r1.hea"], [], Path("l.csv")).find(str(tmp_path / "data/r1.hea")) == "data/r1.hea"


def test_a_moved_table_is_matched_by_a_tail_that_fits_one_recording_only(tmp_path):
    recordings = [str(tmp_path / p) for p in ("x/a/r1.hea", "x/b/r1.hea", "x/b/r2.hea")]
    matcher = PathMatcher(recordings, [], tmp_path / "far" / "away" / "labels.csv")
    assert matcher.find("a/r1.hea") == recordings[0] and matcher.find("r2.hea") == recordings[2]
    assert matcher.find("x/b/r1.hea") == recordings[1]
    assert matcher.find("r1.hea") is None  # two have it
    assert matcher.find("z/r2.hea") is None  # another folder than the table says


def test_a_place_wins_over_a_tail(tmp_path):
    recordings = [str(tmp_path / p) for p in ("r1.hea", "sub/r1.hea")]
    assert PathMatcher(recordings, [], tmp_path / "labels.csv").find("r1.hea") == recordings[0]


def test_links_lead_to_the_same_recording(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    recording = str(tmp_path / "link" / "r1.hea")
    assert PathMatcher([recording], [], tmp_path / "l.csv").find("real/r1.hea") == recording


SPANS = st.tuples(st.integers(0, 60), st.integers(1, 30)).map(lambda s: (s[0] / 2, (s[0] + s[1]) / 2))


@settings(max_examples=300, deadline=None)
@given(st.lists(SPANS, max_size=8), st.lists(st.one_of(st.none(), SPANS), max_size=8), st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_windows_take_the_label_that_a_plain_loop_gives_them(windows, spans, share):
    def covered(window, span):
        return 1.0 if span is None else max(0.0, min(window[1], span[1]) - max(window[0], span[0])) / (window[1] - window[0])

    expected = []
    for window in windows:
        shares = [covered(window, span) for span in spans]
        best = max(shares, default=0.0)
        expected.append(shares.index(best) if best > 0 and best >= share else -1)
    start, stop = np.array(windows, float).reshape(-1, 2).T
    low, high = np.array([span or (np.nan, np.nan) for span in spans], float).reshape(-1, 2).T
    np.testing.assert_array_equal(match_windows(start, stop, low, high, share), expected)


def test_half_a_window_is_enough_at_one_half():
    start, stop = np.array([0.0, 10.0]), np.array([10.0, 20.0])
    assert match_windows(start, stop, np.array([5.0]), np.array([14.9]), 0.5).tolist() == [0, -1]


def test_a_day_of_beats_is_matched_in_little_memory():
    start, beats = np.arange(0, 20_000, 10.0), np.arange(0, 20_000, 0.5)
    tracemalloc.start()
    found = match_windows(start, start + 10, beats, beats + 0.5, 0.05)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found >= 0).all() and peak < 20e6
