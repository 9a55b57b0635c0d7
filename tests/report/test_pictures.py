from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from readers.schema import Box
from toolkit.errors import ToolkitError
from toolkit.report import pictures
from toolkit.report.figures import BLUE, GREEN, ORANGE, blank


def _share(path: Path, colour: str, tolerance: float = 0.12) -> float:
    """Share of pixels near a colour."""
    return float((np.abs(imread(path)[..., :3] - to_rgb(colour)).max(axis=-1) < tolerance).mean())


def _sound(hidden_s: tuple[float, float] = (0.4, 0.6), rate_hz: float = 8000.0) -> pictures.SpectrogramPanel:
    time_s = np.arange(int(rate_hz)) / rate_hz
    wave = 0.5 * np.sin(2 * np.pi * 1000 * time_s)
    hidden = (time_s >= hidden_s[0]) & (time_s < hidden_s[1])
    return {"title": "ch 1", "rate_hz": rate_hz, "before": np.where(hidden, np.nan, wave), "after": wave, "hidden": hidden}


def _volume(change: float = 0.0, truth: bool = True) -> pictures.VolumePanel:
    values = np.random.default_rng(0).normal(100, 5, (30, 24, 18))
    box = Box((10, 8, 6), (20, 16, 12))
    inside = tuple(slice(a, b) for a, b in zip(box.start, box.stop, strict=True))
    before, after = values.copy(), values.copy()
    before[inside] = np.nan
    after[inside] += change * np.linspace(-1, 1, 10)[:, None, None]
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    panel: pictures.VolumePanel = {"title": "T1w", "before": before, "after": after, "affine": affine, "box": box}
    return {**panel, "truth": values} if truth else panel


def _cloud(truth: bool = True) -> pictures.PointsPanel:
    points = np.random.default_rng(0).uniform(-1, 1, (3000, 3)) * (3, 2, 1)
    gone = points[:, 0] > 1.5
    panel: pictures.PointsPanel = {"title": "room", "visible": points[~gone], "repaired": points[gone], "unit": "m"}
    return {**panel, "truth": points[gone]} if truth else panel


def test_a_full_scale_sine_is_at_0_db_at_its_frequency() -> None:
    rate_hz = 22050.0
    wave = np.sin(2 * np.pi * 3000 * np.arange(22050) / rate_hz)
    hz, at, level = pictures._decibels(wave, rate_hz)
    middle = level[:, len(at) // 2]
    assert abs(hz[middle.argmax()] - 3000) <= hz[1] and abs(middle.max()) < 1.5
    assert at[0] == 0 and at[-1] == pytest.approx(1, abs=0.05)
    assert middle[np.abs(hz - 3000) > 300].max() < -60


def test_a_long_sound_has_about_as_many_frames_as_the_picture_has_columns() -> None:
    _, at, level = pictures._decibels(np.random.default_rng(0).normal(size=2_000_000), 32000.0)
    assert pictures.FRAMES / 2 < len(at) == level.shape[1] < 3 * pictures.FRAMES


def test_a_spectrogram_marks_the_repair_and_stacks_the_stages(tmp_path: Path) -> None:
    marked = pictures.spectrogram_png(tmp_path / "new" / "a.png", [_sound()])
    plain = pictures.spectrogram_png(tmp_path / "b.png", [_sound((2.0, 3.0))])
    assert _share(marked, ORANGE, 0.05) > _share(plain, ORANGE, 0.05) + 0.002
    with_truth = pictures.spectrogram_png(tmp_path / "c.png", [{**_sound(), "truth": _sound()["after"]}])
    both = pictures.spectrogram_png(tmp_path / "d.png", [_sound(), _sound()])
    heights = [imread(path).shape[0] for path in (marked, with_truth, both)]
    assert heights[1] == pytest.approx(1.45 * heights[0], rel=0.12) and heights[2] == pytest.approx(1.9 * heights[0], rel=0.15)


def test_a_volume_shows_what_is_unknown_the_box_and_the_error(tmp_path: Path) -> None:
    right = pictures.volume_png(tmp_path / "a.png", [_volume()])
    wrong = pictures.volume_png(tmp_path / "b.png", [_volume(change=60)])
    unknown_truth = pictures.volume_png(tmp_path / "c.png", [_volume(truth=False)])
    assert _share(right, pictures.UNKNOWN, 0.03) > 0.005 and _share(right, ORANGE, 0.05) > 0.002
    for colour in ("#053061", "#67001f"):  # both ends of the difference's colours; in a right repair its scale bar alone
        assert _share(wrong, colour) > 1.5 * _share(right, colour)
    assert imread(unknown_truth).shape[1] < 0.9 * imread(right).shape[1]


def test_slices_lie_in_mm_where_the_affine_puts_them() -> None:
    panel = _volume(change=1)
    panel["affine"] = np.diag([2.0, 2.0, 3.0, 1.0])
    panel["affine"][:3, 3] = (-31, -20, 7)
    figure = blank(4, 4)
    axes = figure.subplots()
    image = pictures._draw_slice(axes, panel["after"], panel, (0, 2), {"cmap": "gray"})
    assert image.get_extent() == [-32, 28, 5.5, 59.5]  # centres of voxels at -31 + 2 i and 7 + 3 k
    outline = axes.patches[0].get_extents().transformed(axes.transData.inverted())
    assert (outline.x0, outline.x1, outline.y0, outline.y1) == pytest.approx((-12, 8, 23.5, 41.5))
    assert np.array_equal(image.get_array(), panel["after"][:, 12].T)


def test_the_reach_of_a_cloud_is_what_lies_around_the_repair() -> None:
    visible = np.array([[-100.0, 0, 0], [100, 0, 0], [0, 0, 0.5], [0, 0, -0.5]])
    low, high = pictures._reach([np.array([[0.0, 0, 0], [2, 0, 0]])], visible)
    assert low.tolist() == [-1.5, 0, -0.5] and high.tolist() == [3.5, 0, 0.5]
    assert pictures._reach([np.empty((0, 3))], visible)[1].tolist() == [100, 0, 0.5]


def test_clouds_have_equal_scales_and_the_colours_of_their_parts(tmp_path: Path) -> None:
    known = pictures.points_png(tmp_path / "a.png", [_cloud()])
    unknown = pictures.points_png(tmp_path / "b.png", [_cloud(truth=False)])
    assert _share(known, BLUE) > 0.002 and _share(known, GREEN) > 0.002
    assert _share(unknown, BLUE) > 0.002 and _share(unknown, GREEN) < 1e-4
    axes = blank(4, 4).add_subplot(projection="3d")
    pictures._frame(axes, np.array([0.0, 0, 0]), np.array([4.0, 2, 1]), "m", pictures.VIEW_DEG)
    assert axes._box_aspect / axes._box_aspect[2] == pytest.approx([4, 2, 1])
    assert axes.get_zlabel() == "z (m)" and axes.get_xlim() == (0, 4)


def test_a_cloud_with_nothing_of_a_kind_and_unknown_coordinates_still_draws(tmp_path: Path) -> None:
    nothing, unknown = np.empty((0, 3)), np.full((1, 3), np.nan)
    cloud = _cloud(truth=False)
    cloud["visible"] = np.concatenate([cloud["visible"], unknown])
    bare: pictures.PointsPanel = {**cloud, "visible": nothing}
    unrepaired: pictures.PointsPanel = {**cloud, "repaired": nothing}
    path = pictures.points_png(tmp_path / "a.png", [bare])
    assert _share(path, BLUE) > 0.002
    assert _share(pictures.points_png(path, [unrepaired]), BLUE) < 0.001  # its legend alone


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pictures.spectrogram_png(tmp_path / "a.png", [_sound()])
    old = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(ToolkitError, match="disk full"):
        pictures.spectrogram_png(path, [_sound()])
    assert path.read_bytes() == old and list(tmp_path.iterdir()) == [path]
