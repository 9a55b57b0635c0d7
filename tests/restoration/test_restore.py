"""What restore writes: only the repaired samples change, in the record's own grid and format."""

import json
from pathlib import Path

import numpy as np
import pytest
import wfdb

from readers import open_recording
from readers.schema import ReadError
from tests.ecg import LIMB, TWELVE, record, signals
from toolkit.restoration import run, spans


def stored(header: Path | str) -> np.ndarray:
    return wfdb.rdrecord(str(Path(header).with_suffix("")), physical=False).d_signal


def physical(header: Path | str) -> np.ndarray:
    return wfdb.rdrecord(str(Path(header).with_suffix(""))).p_signal


def changed(before: Path, after: str) -> np.ndarray:
    a, b = stored(before), stored(after)
    assert a.shape == b.shape
    return a != b


def header_without_sums(path: Path | str) -> list[list[str]]:
    """Header fields less initial value and checksum, which follow the samples."""
    rows = [line.split() for line in Path(path).read_text().splitlines()]
    return [row[:5] + row[7:] if len(row) > 7 else row for row in rows]


@pytest.fixture
def twelve(tmp_path) -> Path:
    return record(tmp_path / "in", "t", TWELVE, 10, seed=4)


def test_spans_change_only_what_they_name(restore, twelve) -> None:
    done = restore(twelve, table="path,start,stop,channel\nt.hea,2,3.5,V1\nt.hea,3,4,V1\nt.hea,6,6.2,aVF\n")
    moved = changed(twelve, done.facts["out"])
    asked = np.zeros_like(moved)
    asked[200:400, TWELVE.index("V1")] = True
    asked[600:620, TWELVE.index("aVF")] = True
    assert moved.any()
    assert not (moved & ~asked).any()
    assert done.facts["repaired"] == 2  # the two that overlap are one
    assert done.facts["changed_fraction"] == pytest.approx(moved.mean())
    assert header_without_sums(done.facts["out"]) == header_without_sums(twelve)
    assert open_recording(Path(done.facts["out"])).verify() == ()


def test_a_span_without_a_channel_is_repaired_in_all(restore, twelve) -> None:
    done = restore(twelve, table="path,start,stop,channel\nt.hea,2,3,\n")
    moved = changed(twelve, done.facts["out"])
    assert moved[200:300].any(axis=0).all()
    assert not moved[:200].any()
    assert not moved[300:].any()


def test_a_span_beyond_the_end_is_cut_there(restore, twelve) -> None:
    done = restore(twelve, table="path,start,stop\nt.hea,9.5,99\nt.hea,50,60\n")
    assert not changed(twelve, done.facts["out"])[:950].any()
    assert done.facts["repaired"] == 12


@pytest.mark.parametrize("lead", LIMB)
def test_a_hidden_limb_lead_follows_from_two_others_to_rounding(restore, twelve, lead) -> None:
    done = restore(twelve, channels=(lead,), reference=twelve)
    column = TWELVE.index(lead)
    steps = np.array(wfdb.rdheader(str(twelve.with_suffix(""))).adc_gain)
    error = np.abs(physical(done.facts["out"]) - physical(twelve))[:, column]
    assert error.max() <= 3 * (1 / steps[:6]).max()  # rounding of the lead itself and of the two it is made of
    assert not np.delete(changed(twelve, done.facts["out"]), column, axis=1).any()
    assert done.facts["metrics"]["r"] > 0.999
    side = json.loads(Path(done.facts["out"]).with_suffix(".restored.json").read_text())
    assert side["changed"][0]["method"] == "limb-lead identity"


def test_the_identity_is_not_used_where_the_record_does_not_obey_it(restore, tmp_path) -> None:
    values = signals(TWELVE, 10)
    values[:, 2] = np.random.default_rng(0).normal(size=len(values))
    path = record(tmp_path / "in", "t", TWELVE, values=values)
    done = restore(path, table="path,start,stop,channel\nt.hea,4,6,III\n")
    side = json.loads(Path(done.facts["out"]).with_suffix(".restored.json").read_text())
    assert side["changed"][0]["method"] == "model"


def test_invalid_and_flat_samples_are_found(restore, tmp_path) -> None:
    values = signals(["II", "V5"], 20)
    values[300:350, 0] = np.nan
    values[800:1000, 1] = values[799, 1]
    values[1500:1560, 1] = values[1499, 1]  # shorter than a second: a real signal may do that
    path = record(tmp_path / "in", "s", values=values)
    done = restore(path)
    found = {(d["channel"], d["why"], round(d["start"], 1), round(d["stop"], 1)) for d in done.facts["detected"]}
    assert found == {("II", "invalid", 3.0, 3.5), ("V5", "flat", 8.0, 10.0)}
    moved = changed(path, done.facts["out"])
    assert moved[300:350, 0].all()
    assert not np.isnan(physical(done.facts["out"])).any()
    assert not moved[1500:1560, 1].any()
    assert moved.sum() == moved[300:350, 0].sum() + moved[799:1000, 1].sum()


def test_a_flat_run_across_a_block_of_reading_is_one_span(tmp_path) -> None:
    values = signals(["II"], 130)
    edge = round(spans.BLOCK_S * 100)
    values[edge - 70 : edge + 60, 0] = 0.5
    recording = open_recording(record(tmp_path, "s", ["II"], values=values))
    (span,) = spans.detect(recording, [0])
    assert (span.start, span.stop, span.why) == (edge - 70, edge + 60, "flat")


def test_scores_agree_with_formulas_on_the_files_on_disk(restore, tmp_path) -> None:
    values = signals(["II", "V5"], 30, seed=2)
    values[0] = 3.0  # the range of the file then holds whatever the model predicts
    path = record(tmp_path / "in", "s", values=values)
    done = restore(path, damage="block:0.2")
    assert done.facts["clipped"] == 0
    side = json.loads(Path(done.facts["out"]).with_suffix(".restored.json").read_text())
    truth, after = physical(path), physical(done.facts["out"])
    names = ["II", "V5"]
    spots = [(names.index(c["channel"]), round(c["start"] * 100), round(c["stop"] * 100), c["level"]) for c in side["changed"]]
    x = np.concatenate([truth[a:b, k] for k, a, b, _ in spots])
    y = np.concatenate([after[a:b, k] for k, a, b, _ in spots])
    level = np.concatenate([np.full(b - a, level) for _, a, b, level in spots])
    metrics = done.facts["metrics"]
    assert metrics["nmse"] == pytest.approx(((y - x) ** 2).sum() / ((x - level) ** 2).sum(), rel=1e-2)
    assert metrics["rrmse"] == pytest.approx(np.sqrt(((y - x) ** 2).mean() / (x**2).mean()), rel=1e-2)
    assert metrics["r"] == pytest.approx(np.corrcoef(x - level, y - level)[0, 1], abs=1e-2)
    lines = [
        np.interp(np.arange(a, b), [a - 1, b], [truth[a - 1, k], truth[b, k]])
        if a and b < len(truth)
        else np.full(b - a, truth[b if not a else a - 1, k])
        for k, a, b, _ in spots
    ]
    linear = np.concatenate(lines)
    assert done.facts["baselines"]["linear interpolation"]["nmse"] == pytest.approx(
        ((linear - x) ** 2).sum() / ((x - level) ** 2).sum(), rel=1e-2
    )
    assert done.facts["baselines"]["identity"]["nmse"] == pytest.approx(1, abs=1e-6)
    assert sum(row["spans"] for row in metrics["by_length"]) == metrics["spans"] == len(spots)


def test_damage_covers_what_was_asked(restore, tmp_path) -> None:
    path = record(tmp_path / "in", "s", seconds=60)
    hidden = restore(path, damage="block:0.3").facts
    side = json.loads(Path(hidden["out"]).with_suffix(".restored.json").read_text())
    times = np.zeros(6000, dtype=bool)
    for row in side["changed"]:
        times[round(row["start"] * 100) : round(row["stop"] * 100)] = True
    assert times.mean() == pytest.approx(0.3, abs=0.01)
    (path.parent.parent / "out/s.hea").unlink()
    assert restore(path, damage="channel:0.5").facts["task"] == "channels"


def test_a_reference_scores_the_repair_of_real_damage(restore, tmp_path) -> None:
    values = signals(["II", "V5"], 12, seed=5)
    clean = record(tmp_path / "clean", "s", values=values)
    damaged = values.copy()
    damaged[400:500, 1] = np.nan
    path = record(tmp_path / "in", "s", values=damaged)
    done = restore(path, reference=clean.parent)
    x, y = physical(clean)[400:500, 1], physical(done.facts["out"])[400:500, 1]
    assert done.facts["metrics"]["rrmse"] == pytest.approx(np.sqrt(((y - x) ** 2).mean() / (x**2).mean()), rel=1e-2)


def test_samples_beyond_the_range_of_the_format_are_limited_and_reported(restore, tmp_path) -> None:
    path = record(tmp_path / "in", "t", TWELVE, 10, seed=1)
    lines = path.read_text().splitlines()
    at = 1 + TWELVE.index("III")  # a hundred times the steps: its own samples then lie beyond 16 bits
    fields = lines[at].split()
    gain, rest = fields[2].split("(")
    fields[2] = f"{float(gain) * 100}({rest}"
    path.write_text("\n".join([*lines[:at], " ".join(fields), *lines[at + 1 :]]) + "\n")
    done = restore(path, channels=("III",))
    assert done.facts["clipped"] > 0
    assert any("limited to the range" in note for note in done.notes)
    side = json.loads(Path(done.facts["out"]).with_suffix(".restored.json").read_text())
    assert side["clipped_samples"] == done.facts["clipped"]


def test_channels_of_several_rates(restore, tmp_path) -> None:
    """A record with the second channel at a quarter of the first one's rate."""
    folder = tmp_path / "in"
    folder.mkdir()
    fast, slow = signals(["II"], 10, rate=200)[:, 0], signals(["V5"], 10, rate=50)[:, 0]
    wfdb.wrsamp(
        "m",
        fs=50,
        units=["mV", "mV"],
        sig_name=["II", "V5"],
        fmt=["16", "16"],
        adc_gain=[2000.0, 2000.0],
        baseline=[0, 0],
        e_d_signal=[np.rint(fast * 2000).astype(int), np.rint(slow * 2000).astype(int)],
        samps_per_frame=[4, 1],
        write_dir=str(folder),
    )
    done = restore(folder / "m.hea", table="path,start,stop,channel\nm.hea,2,4,II\nm.hea,6,7,V5\n")

    def samples(path: str) -> list[np.ndarray]:
        return wfdb.rdrecord(path, physical=False, smooth_frames=False).e_d_signal

    before, after = samples(str(folder / "m")), samples(done.facts["out"].removesuffix(".hea"))
    moved = [np.flatnonzero(a != b) for a, b in zip(before, after, strict=True)]
    assert moved[0].size
    assert moved[1].size
    assert moved[0].min() >= 400
    assert moved[0].max() < 800
    assert moved[1].min() >= 300
    assert moved[1].max() < 350
    assert done.facts["changed_fraction"] == pytest.approx(sum(m.size for m in moved) / 2500)


def test_many_spans_are_listed_in_a_file_of_their_own(restore, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(run, "MANY", 20)
    path = record(tmp_path / "in", "s", ["II"], 10)
    rows = "".join(f"s.hea,{0.3 * k + 0.1:.2f},{0.3 * k + 0.2:.2f}\n" for k in range(25))
    done = restore(path, table="path,start,stop\n" + rows)
    side = json.loads(Path(done.facts["out"]).with_suffix(".restored.json").read_text())
    assert (len(side["changed"]), side["changed_spans"]) == (20, 25)
    with np.load(tmp_path / "out" / side["mask"]) as mask:
        assert mask["start"].shape == (25,)


def test_nothing_visible_is_an_error(restore, tmp_path) -> None:
    path = record(tmp_path / "in", "s", values=np.full((500, 2), np.nan))
    with pytest.raises(ReadError, match="visible"):
        restore(path)


def test_annotations_travel_along(restore, tmp_path) -> None:
    from readers.cardiac import create_wfdb

    path = create_wfdb(
        tmp_path / "in", "s", signals(["II"], 10), rate_hz=100, names=["II"], units=["mV"], annotations=[(1.0, "N")]
    )
    done = restore(path, table="path,start,stop\ns.hea,2,3\n")
    assert Path(done.facts["out"]).with_suffix(".atr").read_bytes() == path.with_suffix(".atr").read_bytes()
    assert len(open_recording(Path(done.facts["out"])).events) == 1
