"""Spherical splines against MNE's, and as a row beside a repair."""

import json

import numpy as np
import pytest
import torch

import readers
from readers.electrodes import places
from tests import eeg_files, eeg_session
from tests.models import talking
from toolkit import recipe as recipes
from toolkit.corpus.inputs import Input
from toolkit.corpus.sessions import LIMIT, measure
from toolkit.model.folder import LoadedModel
from toolkit.restoration import damage as damages
from toolkit.restoration import menders, spline
from toolkit.restoration.mender import Request
from toolkit.restoration.repair import Repaired, hide
from toolkit.restoration.run import Restoration
from toolkit.restoration.spans import Span, whole_channels

XYZ = np.array([places()[name] for name in eeg_session.TEN_TWENTY])


@pytest.mark.parametrize("hidden", [[0], [3, 8], [4, 5, 6, 17], list(range(10))])
def test_weights_are_those_of_mne(hidden):
    interpolation = pytest.importorskip("mne.channels.interpolation")
    seen = [i for i in range(19) if i not in hidden]
    middle = spline._middle(XYZ[seen])
    want = interpolation._make_interpolation_matrix(XYZ[seen] - middle, XYZ[hidden] - middle)
    np.testing.assert_allclose(spline.weights(XYZ[seen], XYZ[hidden]), want, atol=1e-6)


def test_a_constant_field_comes_back():
    np.testing.assert_allclose(spline.weights(XYZ[:12], XYZ).sum(1), 1, atol=1e-6)


def test_the_middle_is_that_of_the_sphere_on_which_places_lie():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(20, 3))
    points = 0.09 * points / np.linalg.norm(points, axis=1, keepdims=True) + [0.01, -0.02, 0.04]
    np.testing.assert_allclose(spline._middle(points), [0.01, -0.02, 0.04], atol=1e-9)


def test_a_hidden_electrode_is_made_from_the_seen_ones_sample_by_sample(tmp_path):
    recording = readers.open_recording(eeg_session.record(tmp_path / "a.edf", eeg_session.TEN_TWENTY, 4))
    seen = [i for i in range(19) if i not in (2, 5)]
    made = spline.interpolated(recording, Repaired(Span(2, 100, 250, "table"), np.zeros(150), "", 0.0), seen)
    values = recording.read(100, 250, channels=seen).values.astype(np.float64)
    np.testing.assert_allclose(made, (spline.weights(XYZ[seen], XYZ[[2]]) @ values)[0], atol=1e-9)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small REVE with overlapping patches that has learnt nothing."""
    width = {"width": 32, "depth": 1, "heads": 2, "head_width": 16, "mlp": 40}
    flags = {f"{part}.{k}": v for part in ("encoder", "decoder") for k, v in width.items()}
    flags |= {"data.rate_hz": 100.0, "data.window_s": 2.0, "tokenizer.patch": 20, "tokenizer.stride": 18}
    recipe = recipes.resolve("reve", size="tiny", flags=flags)
    return LoadedModel(talking(recipe).eval(), recipe, "none", tmp_path_factory.mktemp("run"), ())


def restored(model, path, out, **asked):
    job = Restoration(menders.build(model, torch.device("cpu")), Request(**asked), out, model)
    return job.restore(Input(path, path.parent)).facts


def test_reve_4_masked_channels_are_scored_beside_spherical_splines(model, tmp_path):
    path = eeg_session.record(tmp_path / "a.edf", eeg_session.TEN_TWENTY, 6)
    facts = restored(model, path, tmp_path / "out", damage=tuple(damages.parse("channel:0.2")), seed=1)
    recording = readers.open_recording(path)
    assert facts["repaired"] == 4 and set(facts["baselines"]) == {"linear interpolation", "identity", "spherical spline"}
    said = json.loads((tmp_path / "out" / "a.restored.json").read_text())
    assert said["scale"].startswith("visible mean and deviation of each channel in the recording")
    # The row against splines of the truth, weighed here.
    hidden = [next(i for i, c in enumerate(recording.channels) if c.name == row["channel"]) for row in said["changed"]]
    values = recording.read(0, 600).values.astype(np.float64)
    seen = [i for i in range(19) if i not in hidden]
    made = spline.weights(XYZ[seen], XYZ[hidden]) @ values[seen]
    true = values[hidden] - values[hidden].mean(1, keepdims=True)
    error = made - made.mean(1, keepdims=True) - true
    assert facts["baselines"]["spherical spline"]["nmse"] == pytest.approx((error**2).sum() / (true**2).sum(), rel=1e-3)


def test_spans_in_all_channels_at_once_leave_no_electrode_to_interpolate_from(model, tmp_path):
    path = eeg_session.record(tmp_path / "a.edf", eeg_session.TEN_TWENTY[:3], 6)
    facts = restored(model, path, tmp_path / "out", damage=(("channel", 0.3),), seed=1)
    assert "spherical spline" not in facts["baselines"]


def test_the_scale_of_a_session_is_that_of_what_is_visible(model, tmp_path):
    """The amplitude of a hidden channel must not reach its repair: another truth gives the same one."""
    made = []
    for scale in (1, 3):
        lines = eeg_session.lines(eeg_session.TEN_TWENTY, 6)
        lines[4] = type(lines[4])(lines[4].stored * scale, lines[4].per_record, lines[4].name)
        path = eeg_files.write(tmp_path / f"{scale}" / "a.edf", lines)
        recording = readers.open_recording(path)
        spans = whole_channels(recording, [recording.channels[4].name])
        repairer = menders.build(model, torch.device("cpu")).repairer
        made.append(next(iter(repairer.repair(recording, spans))).values)
        session = measure(recording, model.recipe.data, [4, 5, 6], lambda s, r=recording, x=spans: hide(s, r, [4, 5, 6], x))
        assert session.scale[0] == pytest.approx(np.sqrt((session.scale[1:] ** 2).mean()))
    np.testing.assert_array_equal(*made)


def test_visible_samples_beyond_the_limit_are_left_as_they_are(model, tmp_path):
    """A burst of 40 deviations beside a repaired span: were it cut, the join would miss it by hundreds of uV."""
    lines = eeg_session.lines(eeg_session.TEN_TWENTY, 60)
    lines[3].stored[2995:2998] = 30_000
    recording = readers.open_recording(eeg_files.write(tmp_path / "a.edf", lines))
    repairer = menders.build(model, torch.device("cpu")).repairer
    span = Span(3, 3018, 3036)
    levels, session = {3: 0.0}, measure(recording, model.recipe.data, list(range(19)))
    assert (3000 - session.offset[3]) / session.scale[3] > 2 * LIMIT
    window = repairer._windows(3018, 3036)[0]
    values = repairer._window(recording, list(range(19)), [span], levels, session, window)
    truth = recording.read(window.start, window.stop, rate_hz=100).values
    burst = slice(2995 - window.start, 2998 - window.start)
    np.testing.assert_allclose(values[3, burst], truth[3, burst], rtol=1e-4)
