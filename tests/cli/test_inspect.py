"""``toolkit inspect``."""

from tests.ecg import record

KEYS = {
    "path",
    "domain",
    "format",
    "channels",
    "shape",
    "duration_s",
    "spacing_mm",
    "orientation",
    "points",
    "subject",
    "events",
    "warnings",
}


def test_json_agrees_with_what_was_written(toolkit, data) -> None:
    seen = toolkit("inspect", data, "--json").document
    assert [set(row) for row in seen] == [KEYS] * 3
    first = seen[0]
    assert (first["domain"], first["format"], first["shape"], first["duration_s"]) == ("cardiac", "wfdb", [2, 1200], 12.0)
    assert first["subject"] == "p0"
    assert first["spacing_mm"] is None
    assert first["channels"][0] == {"name": "II", "canonical": "II", "kind": "ecg", "unit": "mV", "rate_hz": 100.0}


def test_one_line_a_recording_and_failures_cost_only_themselves(toolkit, tmp_path) -> None:
    record(tmp_path, "good")
    record(tmp_path, "bad").with_suffix(".dat").unlink()
    done = toolkit("inspect", tmp_path, code=3)
    assert len(done.out.splitlines()) == 1
    assert "good.hea" in done.out
    assert "bad.dat" in done.err
    assert len(toolkit("inspect", tmp_path, "--json", "--quiet", code=3).document) == 1


def test_unclaimed_files_are_counted_and_named_once(toolkit, tmp_path) -> None:
    record(tmp_path, "good")
    for number in range(5):
        (tmp_path / f"note{number}.txt").write_text("x")
    brief, full = toolkit("inspect", tmp_path).err, toolkit("inspect", tmp_path, "--verbose").err
    assert "5 files" in brief
    assert "note4" not in brief
    assert "note4" in full
    assert toolkit("inspect", tmp_path, "--quiet").err == ""


def test_a_domain_restricts_and_an_unknown_one_is_named(toolkit, data) -> None:
    assert len(toolkit("inspect", data, "--domain", "cardiac", "--json").document) == 3
    assert "no domain 'cardiak'. Did you mean 'cardiac'?" in toolkit("inspect", data, "--domain", "cardiak", code=2).err
