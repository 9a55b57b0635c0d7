from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from toolkit.errors import ToolkitError
from toolkit.report import figures
from toolkit.report.training import losses_png


def _panel(truth: bool = True) -> figures.Panel:
    time_s = np.arange(300) / 100
    wave = np.sin(2 * np.pi * time_s)
    hidden = (time_s > 1) & (time_s < 1.5)
    before = np.where(hidden, 0, wave)
    panel = figures.Panel(title="II", time_s=time_s, before=before, after=wave, hidden=hidden, unit="mV")
    return {**panel, "truth": wave} if truth else panel


def _blueness(path: Path) -> float:
    """Share of pixels in which blue clearly leads."""
    image = imread(path)
    return float((image[..., 2] - image[..., 0] > 0.2).mean())


def test_a_confusion_of_right_answers_is_darkest_on_its_diagonal(tmp_path: Path) -> None:
    right = figures.confusion_png(tmp_path / "a.png", np.eye(3, dtype=int) * 9, ["a", "b", "long name"], "all right")
    spread = figures.confusion_png(tmp_path / "b.png", np.ones((3, 3), int) * 3, ["a", "b", "long name"], "guessing")
    dark = [float((imread(path)[..., 0] < 0.1).mean()) for path in (right, spread)]
    assert dark[0] > dark[1] + 0.02
    figures.confusion_png(tmp_path / "c.png", np.zeros((30, 30), int), [f"class {i}" for i in range(30)], "empty")


def test_longer_bars_have_more_blue_and_undefined_intervals_still_draw(tmp_path: Path) -> None:
    def rows(value: float, low: float) -> list[dict[str, object]]:
        return [
            {"name": name, "metric": metric, "value": value, "low": low, "high": value}
            for name in ("m", "n")
            for metric in ("x", "other")
        ]

    both = [{"name": "anchor", "metric": "x", "value": 1.0, "low": 1.0, "high": 1.0}]
    long = figures.scores_png(tmp_path / "l.png", rows(0.9, 0.8) + both, "x")
    short = figures.scores_png(tmp_path / "s.png", rows(0.3, float("nan")) + both, "x")
    assert _blueness(long) > 1.2 * _blueness(short)


def test_the_other_figures_draw_what_they_are_given(tmp_path: Path) -> None:
    truth = np.linspace(60, 120, 50)
    steps = np.arange(50)
    for path in (
        figures.regression_png(tmp_path / "new" / "r.png", truth, truth + 3, "bpm"),
        figures.restoration_png(tmp_path / "x.png", [_panel(), _panel(truth=False)]),
        losses_png(tmp_path / "t.png", [{"step": int(n), "loss": 1 / (1 + n), "loss_trivial": 0.4} for n in steps]),
    ):
        assert _blueness(path) > 0.0005
    one, three = (imread(figures.restoration_png(tmp_path / f"{n}.png", [_panel()] * n)).shape[0] for n in (1, 3))
    assert three > 2 * one


def test_a_repaired_span_is_shaded(tmp_path: Path) -> None:
    clean = _panel()
    clean["hidden"] = np.zeros(300, bool)
    shares = []
    for name, panel in (("with", _panel()), ("without", clean)):
        image = imread(figures.restoration_png(tmp_path / f"{name}.png", [panel]))
        shares.append(float((image[..., 0] - image[..., 2] > 0.08).mean()))
    assert shares[0] > shares[1] + 0.05


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = figures.restoration_png(tmp_path / "a.png", [_panel()])
    old = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(ToolkitError, match="disk full"):
        figures.restoration_png(path, [_panel()])
    assert path.read_bytes() == old and list(tmp_path.iterdir()) == [path]
