import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import readers
from readers.schema import Channel, ReadError, SignalSample, Window
from tests import eeg_session, prepared
from toolkit.corpus import windows
from toolkit.corpus.inputs import gather, open_input
from toolkit.corpus.notes import Notes
from toolkit.corpus.windows import SHORTEST_TAIL, Scaling, fit_scaling, plan


def sample(values, valid=None, kinds=("ecg",), units=("mV",)):
    values = np.atleast_2d(np.asarray(values, np.float32))
    valid = np.ones(values.shape, bool) if valid is None else np.asarray(valid)
    channels = tuple(Channel("c", f"c{i}", kinds[i % len(kinds)], units[i % len(units)], None, 100.0) for i in range(len(values)))
    window = Window(0, values.shape[1])
    return SignalSample(values, valid, channels, window, 100.0)


@settings(max_examples=150, deadline=None)
@given(st.data(), st.integers(0, 400), st.integers(1, 120))
def test_windows_cover_a_recording_without_gaps(data, length, window):
    stride = data.draw(st.integers(1, window))
    planned = plan(length, window, stride)
    assert all(w.stop - w.start == window and w.start % stride == 0 for w in planned)
    starts = [w.start for w in planned]
    assert starts == list(range(0, len(starts) * stride, stride))  # stride <= window: no gap between
    end = planned[-1].stop if planned else 0
    assert length - end < max(1, SHORTEST_TAIL * window)  # nothing but a short tail is left out
    assert bool(planned) == (length > 0)
    if len(planned) > 1:
        assert planned[-2].stop < length and planned[-1].start < length  # none shows only what another shows


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 400), st.integers(1, 60), st.integers(1, 120))
def test_strides_beyond_a_window_start_where_asked(length, window, stride):
    shortest = max(1, math.ceil(SHORTEST_TAIL * window))
    expected = [0] + [s for s in range(stride, length, stride) if length - s >= shortest]
    while len(expected) > 1 and expected[-2] + window >= length:
        expected.pop()
    assert [w.start for w in plan(length, window, stride)] == expected


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=30), st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_scaling_inverts_to_float32_rounding(values, offset, scale):
    values = np.array([values], np.float32)
    scaling = Scaling(np.array([offset]), np.array([scale]))
    back = scaling.invert(scaling.apply(values))
    limit = np.abs(values.astype(float) - offset) * 2.0**-23 + scale * 1e-37
    assert back.dtype == np.float64 and (np.abs(back - values) <= limit).all()


def test_one_scale_a_kind_keeps_relative_amplitudes_and_one_a_channel_does_not():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 500)) * [[1.0], [3.0], [100.0]] + [[5.0], [-5.0], [1000.0]]
    given_ = sample(values, kinds=("ecg", "ecg", "ppg"), units=("mV", "mV", "NU"))
    centred = values - values.mean(1, keepdims=True)
    by_kind = fit_scaling(given_, "kind")
    np.testing.assert_allclose(by_kind.offset, values.mean(1), rtol=1e-5)
    np.testing.assert_allclose(by_kind.scale, [math.sqrt((centred[:2] ** 2).mean())] * 2 + [centred[2].std()], rtol=1e-5)
    np.testing.assert_allclose(fit_scaling(given_, "channel").scale, centred.std(1), rtol=1e-5)


@pytest.mark.parametrize("mode", ["kind", "channel"])
def test_samples_that_are_not_valid_have_no_part_in_the_scaling(mode):
    rng = np.random.default_rng(1)
    values, valid = rng.normal(size=(2, 200)).astype(np.float32), rng.random((2, 200)) < 0.6
    valid[1] = False
    for junk in (0.0, 1e30, np.nan, np.inf):
        got = fit_scaling(sample(np.where(valid, values, np.float32(junk)), valid), mode)
        np.testing.assert_allclose(got.offset, [values[0][valid[0]].mean(), 0], rtol=1e-5)
        assert math.isclose(got.scale[0], values[0][valid[0]].std(), rel_tol=1e-5) and got.scale[1] > 0


@pytest.mark.parametrize("level", [0.0, 0.1, 1 / 3, -1234.567, 1e30])
@pytest.mark.parametrize("mode", ["kind", "channel"])
def test_a_flat_channel_stays_flat_and_is_not_blown_up_to_noise(level, mode, tiny):
    scaled = windows.scale(sample(np.full((2, 2501), level)), tiny(data__scaling=mode).data)
    assert np.abs(scaled.values).max() < 1e-3


def test_scaled_values_are_zero_where_not_valid(tiny):
    values, valid = np.array([[1.0, 2.0, np.nan, 1e30]]), np.array([[True, True, False, False]])
    assert windows.scale(sample(values, valid), tiny().data).values[0].tolist() == [-1.0, 1.0, 0.0, 0.0]


def test_channels_are_chosen_by_kind_and_a_file_without_any_says_what_it_holds(wfdb_folder, tiny):
    both = open_input(gather([str(wfdb_folder / "b/both.hea")]).items[0])
    assert windows.channels_for(both, tiny().data) == [0, 1]
    assert windows.channels_for(both, tiny(data__kinds=("ppg",)).data) == [1]
    with pytest.raises(ReadError, match=r"both\.hea.*kind eeg.*II \(ecg\), PPG \(ppg\)"):
        windows.channels_for(both, tiny(data__kinds=("eeg",)).data)


def test_what_the_preprocessing_loses_is_said(wfdb_folder, tiny):
    data = tiny(data__kinds=("ecg", "ppg")).data
    names = ("a/twelve.hea", "a/two.hea", "b/pulse.hea")
    twelve, two, pulse = (open_input(gather([str(wfdb_folder / name)]).items[0]) for name in names)
    assert windows.mismatches(two, data, ("I", "V2"), [0, 1]) == windows.mismatches(two, data, (), [0, 1]) == []
    assert windows.mismatches(two, data, ("I",), [0]) == ["channels not used: V2 (ecg)"]
    assert windows.mismatches(two, data, ("I",), [0, 1]) == ["channels the model was not trained on: V2"]
    assert "content from 50 to 100 Hz" in windows.mismatches(twelve, data, (), range(12))[0]
    assert "nothing from 25 to 50 Hz" in windows.mismatches(pulse, data, (), [0])[0]
    assert windows.length_on_grid(pulse, 100) == 700 and windows.length_on_grid(twelve, 100) == 1100


def test_notes_give_a_sentence_once_with_its_first_files():
    notes = Notes()
    for name in ("a", "b", "a", "c", "d"):
        notes.add(name, "is long")
    notes.add("b", "is loud")
    assert list(notes.lines()) == ["a, b, and 2 more: is long.", "b: is loud."]
    assert list(notes.lines(every_file=True)) == ["a, b, c, d: is long.", "b: is loud."]


def test_channels_that_only_their_place_tells_apart_need_one(tmp_path):
    recording = readers.open_recording(eeg_session.record(tmp_path / "a.edf", ("Fp1", "X7", "Cz", "T9q"), 2))
    data = prepared.recipe("edf").data
    assert [c.kind for c in recording.channels] == ["eeg"] * 4
    assert windows.channels_for(recording, data) == [0, 1, 2, 3] and windows.channels_for(recording, data, placed=True) == [0, 2]
    said = windows.mismatches(recording, data, (), [0, 2], placed=True)
    assert any("where they are: EEG X7, EEG T9q" in line and "electrodes.tsv" in line for line in said)
    assert not any("not used" in line for line in said)
    nowhere = readers.open_recording(eeg_session.record(tmp_path / "b.edf", ("X7", "X8"), 2))
    with pytest.raises(ReadError, match=r"'b.edf'.*none of its channels where it is \(EEG X7, EEG X8\).*electrodes.tsv"):
        windows.channels_for(nowhere, data, placed=True)
