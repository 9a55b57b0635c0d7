"""Features of clouds whose shape is known by construction, and the real objects' classes."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from readers.schema import Channel, PointSample, Window
from toolkit.probing.features_points import INTENSITY_NAMES, SHAPE_NAMES, points_features

RNG = np.random.default_rng(5)
OBJECTS = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "points"


def _sample(points: NDArray, intensity: NDArray | None = None, known: NDArray | None = None) -> PointSample:
    values = np.zeros((0, len(points)), np.float32) if intensity is None else intensity[None].astype(np.float32)
    channels = () if intensity is None else (Channel("intensity", "intensity", "intensity", None, None, None),)
    known = np.ones(len(points), bool) if known is None else known
    coords = np.where(known[:, None], points, 0).astype(np.float32)
    return PointSample(values, np.ones(values.shape, bool), channels, Window(0, len(points)), coords, known)


def _found(points: NDArray, **more: NDArray) -> dict[str, float]:
    vector, names = points_features(_sample(points, **more))
    assert vector.dtype == np.float32 and vector.shape == (len(names),) and np.isfinite(vector).all()
    return dict(zip(names, vector.tolist(), strict=True))


def _ball(count: int = 4000) -> NDArray:
    direction = RNG.normal(size=(count, 3))
    return direction / np.linalg.norm(direction, axis=1, keepdims=True) * RNG.random((count, 1)) ** (1 / 3)


def _bins(found: dict[str, float], name: str) -> NDArray:
    return np.array([value for key, value in found.items() if key.startswith(f"{name}_") and key.split("_")[-1].isdigit()])


def test_a_line_a_floor_a_wall_and_a_ball_are_told_apart() -> None:
    u, v = RNG.uniform(-1, 1, (2, 3000))
    shapes = {
        "line": np.column_stack([u, 0 * u, 0 * u]),
        "floor": np.column_stack([u, v, 0 * u]),
        "wall": np.column_stack([u, 0 * u, v]),
        "ball": _ball(),
    }
    found = {name: _found(points) for name, points in shapes.items()}
    for over in ("cloud_{}", "local_{}_mean"):
        assert found["line"][over.format("linearity")] > 0.99
        assert found["floor"][over.format("planarity")] > 0.5 > found["ball"][over.format("planarity")]
        assert found["floor"][over.format("verticality")] < 0.01 and found["wall"][over.format("verticality")] > 0.99
        assert found["ball"][over.format("sphericity")] > 0.4 > 0.01 > found["wall"][over.format("sphericity")]
    assert found["ball"]["cloud_sphericity"] > 0.95


def test_the_histograms_of_a_ball_are_those_of_the_theory() -> None:
    found = _found(_ball(8000))
    inside = np.clip(np.linspace(0, 2.5, 13) * 0.75, 0, 1) ** 3  # mean distance from the centre: 3/4 of the radius
    assert _bins(found, "radial") == pytest.approx(np.diff(inside), abs=0.02)
    height = np.linspace(-1, 1, 13)
    below = (2 + 3 * height - height**3) / 4
    assert _bins(found, "height") == pytest.approx(np.diff(below), abs=0.02)
    apart = np.clip(np.linspace(0, 3, 17) * 36 / 35, 0, 2)  # mean distance of two points: 36/35 of the radius
    below = apart**3 - 9 / 16 * apart**4 + apart**6 / 32
    assert _bins(found, "pair") == pytest.approx(np.diff(below), abs=0.03)
    for name in ("radial", "height", "pair"):
        assert _bins(found, name).sum() == pytest.approx(1, abs=1e-5)


def test_extents_spacing_and_density_of_a_grid() -> None:
    x, y = np.meshgrid(np.arange(60) * 0.5, np.arange(40) * 0.5)
    found = _found(np.column_stack([x.ravel(), y.ravel(), 0.25 * x.ravel()]))
    assert found["extent_long_log"] == pytest.approx(np.log(29.5), abs=0.01)
    assert found["extent_short_log"] == pytest.approx(np.log(19.5), abs=0.01)
    assert found["extent_z_log"] == pytest.approx(np.log(29.5 / 4), abs=0.01)
    assert found["points_log"] == pytest.approx(np.log(2400)) and found["nearest_p50_log"] == pytest.approx(np.log(0.5), abs=0.01)
    assert found["density_log"] == pytest.approx(np.log(4 / np.hypot(1, 0.25)), abs=0.35)


def test_a_thinned_cloud_keeps_its_density() -> None:
    u, v = RNG.uniform(0, 100, (2, 60000))
    found = _found(np.column_stack([u, v, 0 * u]))
    assert found["density_log"] == pytest.approx(np.log(6), abs=0.15)
    assert found["nearest_p50_log"] == pytest.approx(np.log(np.sqrt(np.log(2) / np.pi / 6)), abs=0.1)  # of a Poisson process


def test_turning_about_z_moving_and_unknown_rows_change_nothing_and_scale_only_the_lengths() -> None:
    points = _ball(1500) * (4, 2, 1) + RNG.normal(0, 0.01, (1500, 3))
    plain = _found(points)
    turn = np.array([[np.cos(1), -np.sin(1), 0], [np.sin(1), np.cos(1), 0], [0, 0, 1]])
    assert _found(points @ turn.T + (30, -20, 5)) == pytest.approx(plain, abs=2e-3)
    more = np.concatenate([points, np.full((50, 3), np.nan)])
    assert _found(more, known=np.isfinite(more[:, 0])) == plain
    scaled = _found(points * 10)
    for name, value in plain.items():
        lengths = {"extent": 1, "nearest": 1, "density": -2}.get(name.split("_")[0], 0)
        assert scaled[name] == pytest.approx(value + lengths * np.log(10), abs=2e-3)


def test_intensity_is_described_where_it_is_there() -> None:
    points, intensity = _ball(1000), RNG.gamma(2, 10, 1000)
    with_it, without = _found(points, intensity=intensity), _found(points)
    assert list(with_it) == [*without, *INTENSITY_NAMES]
    assert with_it["intensity_mean"] == pytest.approx(intensity.mean(), rel=1e-4)
    assert with_it["intensity_p90"] == pytest.approx(np.percentile(intensity, 90), rel=1e-4)


@pytest.mark.parametrize("kind", ["few", "one place", "pole", "far away"])
def test_degenerate_clouds_have_finite_features(kind: str) -> None:
    points = {
        "few": RNG.normal(size=(4, 3)),
        "one place": np.full((100, 3), 7.3),
        "pole": np.column_stack([np.zeros(50), np.zeros(50), np.arange(50.0)]),
        "far away": RNG.normal(size=(50, 3)) + 1e6,
    }[kind]
    assert set(_found(points)) == set(SHAPE_NAMES)


@pytest.mark.parametrize("count", [0, 3])
def test_fewer_than_four_points_give_gaps_of_the_same_length(count: int) -> None:
    vector, names = points_features(_sample(RNG.normal(size=(count, 3))))
    assert names == SHAPE_NAMES and vector.shape == (len(names),) and np.isnan(vector).all()


@pytest.mark.skipif(not OBJECTS.is_dir(), reason="no shared data")
def test_the_nearest_of_real_objects_is_mostly_of_the_same_class() -> None:
    table = np.loadtxt(OBJECTS / "labels.csv", delimiter=",", dtype=str, skiprows=1)[::2]
    points = [np.loadtxt(OBJECTS / path) for path in table[:, 0]]
    rows = np.stack([points_features(_sample(part - part.mean(axis=0)))[0] for part in points])
    rows = (rows - rows.mean(axis=0)) / rows.std(axis=0).clip(1e-6)
    apart = ((rows[:, None] - rows) ** 2).sum(axis=2)
    np.fill_diagonal(apart, np.inf)
    assert np.mean(table[apart.argmin(axis=1), 1] == table[:, 1]) > 0.8  # chance: 0.2
