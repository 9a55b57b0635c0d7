from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from toolkit.demo import points, solids
from toolkit.demo.points import Scanner, Thing
from toolkit.demo.solids import Box, Frustum, Solid, Sphere, Torus, table
from toolkit.errors import UsageError

EYE = np.array([2.5, -1.2, 1.6])
Field = Callable[[np.ndarray], np.ndarray]


def box_field(p: np.ndarray, size: tuple[float, float, float], lift: float = 0.0) -> np.ndarray:
    return np.abs((p - [0, 0, lift + size[2] / 2]) / (np.array(size) / 2)).max(axis=-1) - 1


def frustum_field(p: np.ndarray, foot: float, top: float, height: float) -> np.ndarray:
    radius = foot + (top - foot) * p[..., 2] / height
    return np.max([np.hypot(p[..., 0], p[..., 1]) - radius, -p[..., 2], p[..., 2] - height], axis=0)


def table_field(p: np.ndarray) -> np.ndarray:
    legs = [frustum_field(p - [sx * 0.5, sy * 0.3, 0], 0.05, 0.05, 0.7) for sx in (-1, 1) for sy in (-1, 1)]
    return np.min([box_field(p, (1.2, 0.8, 0.1), 0.7) * 0.05, *legs], axis=0)


# Each solid beside a function that is negative inside it, 0 on its surface, positive outside.
SOLIDS: dict[str, tuple[Solid, Field]] = {
    "sphere": (Sphere(0.6), lambda p: np.linalg.norm(p - [0, 0, 0.6], axis=-1) - 0.6),
    "box": (Box((0.8, 0.5, 1.1)), lambda p: box_field(p, (0.8, 0.5, 1.1))),
    "cylinder": (Frustum(0.4, 0.4, 0.9), lambda p: frustum_field(p, 0.4, 0.4, 0.9)),
    "cone": (Frustum(0.5, 0.0, 1.2), lambda p: frustum_field(p, 0.5, 0.0, 1.2)),
    "stump": (Frustum(0.5, 0.2, 0.7), lambda p: frustum_field(p, 0.5, 0.2, 0.7)),
    "torus": (Torus(0.5, 0.18), lambda p: np.hypot(np.hypot(p[..., 0], p[..., 1]) - 0.5, p[..., 2] - 0.18) - 0.18),
    "table": (table(1.2, 0.8, 0.8, 0.1, 0.05), table_field),
}


def rays_towards(solid: Solid, count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    low, high = solid.bounds()
    return solids.unit(rng.uniform(low - 0.1, high + 0.1, (count, 3)) - EYE)


@pytest.mark.parametrize("name", SOLIDS)
def test_rays_stop_at_the_first_surface(name: str) -> None:
    """Against marching along the ray in steps of 2 mm through a function that knows only inside and outside."""
    solid, field = SOLIDS[name]
    directions = rays_towards(solid, 400)
    distance, _ = solid.meet(EYE, directions)
    steps = np.arange(0.5, 5.5, 0.002)
    inside = np.stack([field(EYE + steps[:, None] * d) < 0 for d in directions])
    marched = np.where(inside.any(axis=1), steps[inside.argmax(axis=1)], np.inf)
    both = np.isfinite(marched) & np.isfinite(distance)
    assert both.sum() > 60 and (~np.isfinite(distance)).sum() > 10
    assert (np.abs(marched[both] - distance[both]) < 0.0025).mean() > 0.99  # a graze between two steps may be missed
    assert (np.isfinite(marched) & ~np.isfinite(distance)).sum() == 0
    assert (~np.isfinite(marched) & np.isfinite(distance)).mean() < 0.02
    hits = EYE + distance[both, None] * directions[both]
    assert np.abs(field(hits)).max() < 1e-6


@pytest.mark.parametrize("name", SOLIDS)
def test_normals_are_of_length_one_and_look_out_of_the_solid(name: str) -> None:
    solid, field = SOLIDS[name]
    directions = rays_towards(solid, 300, seed=1)
    distance, normals = solid.meet(EYE, directions)
    hit = np.isfinite(distance)
    places = EYE + distance[hit, None] * directions[hit]
    np.testing.assert_allclose(np.linalg.norm(normals[hit], axis=1), 1, atol=1e-9)
    assert np.all((normals[hit] * directions[hit]).sum(axis=1) < 1e-6)  # towards the eye
    assert np.mean(field(places + 1e-4 * normals[hit]) > 0) > 0.99 and np.mean(field(places - 1e-4 * normals[hit]) < 0) > 0.99
    across = solids.unit(np.cross(normals[hit], directions[hit]))
    along = [np.abs(field(places + 1e-4 * t)) for t in (across, solids.unit(np.cross(across, normals[hit])))]
    assert np.mean(np.maximum(*along) < 2e-6) > 0.93  # the surface is flat to first order but at edges


@pytest.mark.parametrize("name", SOLIDS)
def test_bounds_hold_the_solid_tightly(name: str) -> None:
    solid, field = SOLIDS[name]
    low, high = solid.bounds()
    inside = np.random.default_rng(0).uniform(-1, 1.5, (200_000, 3))
    inside = inside[field(inside) < 0]
    assert np.all(inside >= low) and np.all(inside <= high) and low[2] == pytest.approx(0)
    np.testing.assert_allclose(inside.min(axis=0), low, atol=0.12)
    np.testing.assert_allclose(inside.max(axis=0), high, atol=0.2)  # a cone's tip is rarely drawn


def test_a_ray_along_an_axis_meets_a_box() -> None:
    distance, normals = Box((2.0, 2.0, 2.0)).meet(np.array([5.0, 0.0, 1.0]), np.array([[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
    np.testing.assert_array_equal(distance, [4.0, np.inf])
    np.testing.assert_array_equal(normals[0], [1.0, 0.0, 0.0])


def test_beams_form_rings_at_even_angles() -> None:
    scanner = Scanner(rings=16, lowest_deg=-30.0, highest_deg=15.0, azimuths=90)
    beams = points.beams(scanner, 12.0).reshape(16, 90, 3)
    np.testing.assert_allclose(np.linalg.norm(beams, axis=-1), 1)
    up = np.degrees(np.arcsin(beams[..., 2]))
    np.testing.assert_allclose(up, np.broadcast_to(np.linspace(-30, 15, 16)[:, None], (16, 90)), atol=1e-9)
    around = np.degrees(np.unwrap(np.arctan2(beams[..., 1], beams[..., 0]), axis=1))
    np.testing.assert_allclose(around, np.broadcast_to(12 + 4 * np.arange(90), (16, 90)), atol=1e-9)


def still(**about: float) -> Scanner:
    return Scanner(**{"range_noise": 0.0, "intensity_noise": 0.0, "half_power": 1e-12, "loss": 0.0, **about})  # type: ignore[arg-type]


def test_the_ground_is_seen_in_circles() -> None:
    scanner = still(rings=4, lowest_deg=-40.0, highest_deg=-10.0)
    found = points.scan(scanner, [], np.random.default_rng(0))
    assert len(found.points) == 4 * scanner.azimuths and np.all(found.thing == -1)
    np.testing.assert_allclose(found.points[:, 2], 0, atol=1e-12)
    radius = np.hypot(found.points[:, 0], found.points[:, 1])
    np.testing.assert_allclose(np.unique(radius.round(9)), np.sort(1.6 / np.tan(np.deg2rad([40, 30, 20, 10]))), atol=1e-6)
    shine = points.GROUND_REFLECTIVITY * 1.6 / np.hypot(radius, 1.6)  # Lambert: the cosine of the angle from the vertical
    np.testing.assert_allclose(found.intensity, shine, rtol=1e-9)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_what_stands_behind_is_not_seen(order: tuple[int, int, int]) -> None:
    screen = Thing("screen", Box((0.1, 2.0, 2.5)), (2.0, 0.0), 0.0, 0.5)
    hidden = Thing("ball", Sphere(0.3), (4.0, 0.0), 0.0, 0.5)
    beside = Thing("ball", Sphere(0.3), (0.0, 4.0), 0.0, 0.5)
    things = [(hidden, screen, beside)[k] for k in order]
    found = points.scan(still(), things, np.random.default_rng(0))
    seen = [(found.thing == things.index(thing)).sum() for thing in (hidden, screen, beside)]
    assert seen[0] == 0 and seen[1] > 100 and seen[2] > 100
    # Nothing lies in the screen's shadow on the ground.
    ground = found.points[found.thing == -1]
    shadow = (ground[:, 0] > 2.2) & (ground[:, 0] < 10) & (np.abs(ground[:, 1]) < 0.45 * ground[:, 0])
    assert shadow.sum() == 0


def test_every_point_lies_on_the_solid_that_it_is_said_to_be_of() -> None:
    solid, field = SOLIDS["table"]
    thing = Thing("table", solid, (3.0, 2.0), 0.7, 0.5)
    found = points.scan(still(), [thing], np.random.default_rng(0))
    c, s = np.cos(-0.7), np.sin(-0.7)
    own = (found.points[found.thing == 0] - [3.0, 2.0, 0.0]) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]).T
    assert len(own) > 300 and np.abs(field(own)).max() < 1e-6
    away = (found.points[found.thing == -1] - [3.0, 2.0, 0.0]) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]).T
    assert field(away).min() > -1e-6


def test_the_noise_is_along_the_beam() -> None:
    wall = Thing("wall", Box((0.2, 60.0, 20.0)), (6.0, 0.0), 0.0, 1.0)
    noisy = points.scan(still(range_noise=0.02), [wall], np.random.default_rng(3))
    on = noisy.points[(noisy.thing == 0) & (noisy.points[:, 0] > 0) & (np.abs(noisy.points[:, 1]) < 6)]
    eye = np.array([0.0, 0.0, 1.6])
    cosine = solids.unit(on - eye)[:, 0]
    error = (on[:, 0] - 5.9) / cosine  # along the beam, whose direction noise does not change
    assert error.std() == pytest.approx(0.02, rel=0.05) and abs(error.mean()) < 0.001


def test_weak_echoes_are_lost() -> None:
    def seen(metres: float, reflectivity: float, loss: float = 0.0) -> float:
        wall = Thing("wall", Box((0.2, 500.0, 500.0)), (metres, 0.0), 0.0, reflectivity)
        scanner = still(rings=3, lowest_deg=-0.5, highest_deg=0.5, half_power=0.001, farthest=1e4, loss=loss)
        found = points.scan(scanner, [wall], np.random.default_rng(0))
        ahead = np.abs(np.arctan2(found.points[:, 1], found.points[:, 0])) < 0.3
        return ahead.sum() / (3 * scanner.azimuths * 0.3 / np.pi)

    assert seen(5.0, 0.8) > 0.99
    power = 0.4 / 20.0**2 * np.mean(np.cos(np.linspace(-0.3, 0.3, 100)) ** 3)  # mean over the arc of cos / distance^2
    assert seen(20.1, 0.4) == pytest.approx(1 - np.exp(-power / 0.001), abs=0.05)
    assert seen(5.0, 0.8, loss=0.2) == pytest.approx(0.8, abs=0.04)


def test_a_crop_holds_its_thing_and_no_ground() -> None:
    things = points.draw_scene(np.random.default_rng(5))
    found = points.scan(Scanner(), things, np.random.default_rng(6))
    for index, thing in enumerate(things):
        rows = points.crop(found, thing)
        if thing.name == "post":
            continue
        assert (found.thing[rows] == index).mean() > 0.95
        assert len(rows) > 0.8 * ((found.thing == index) & (found.points[:, 2] > points.CROP_M)).sum()
        assert found.points[rows, 2].min() > points.CROP_M


def test_objects_of_a_scene_stand_apart() -> None:
    for seed in range(20):
        things = points.draw_scene(np.random.default_rng(seed))
        assert sorted(t.name for t in things if t.name != "post") == sorted(points.CLASSES)
        middles = np.array([t.place for t in things if t.name != "post"])
        gaps = np.linalg.norm(middles[:, None] - middles[None], axis=-1)[np.triu_indices(len(middles), 1)]
        assert gaps.min() > 1.2 and 2.9 < np.linalg.norm(middles, axis=1).min() < 6.1


def test_an_unknown_class_is_refused() -> None:
    with pytest.raises(ValueError, match="pyramid"):
        points.draw_solid("pyramid", np.random.default_rng(0))


def test_no_scene_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        points.generate(tmp_path / "demo", scenes=0)
    assert not (tmp_path / "demo").exists()


def test_generated_clouds_read_back_with_open3d(tmp_path: Path) -> None:
    labels = points.generate(tmp_path / "a", scenes=3)
    points.generate(tmp_path / "b", scenes=1)
    rows = list(csv.DictReader(labels.open(encoding="utf-8")))
    assert list(rows[0]) == ["path", "label", "scene"]
    assert {r["path"] for r in rows} == {p.name for p in labels.parent.glob("*.ply")}
    assert {r["scene"] for r in rows} == {"scene01", "scene02", "scene03"} and {r["label"] for r in rows} == set(points.CLASSES)
    for path in (tmp_path / "b").glob("*.ply"):  # more scenes leave the first as it is
        assert path.read_bytes() == (tmp_path / "a" / path.name).read_bytes()
    o3d = pytest.importorskip("open3d")
    for row in rows:
        cloud = o3d.t.io.read_point_cloud(str(labels.parent / row["path"]))
        places, intensity = cloud.point.positions.numpy(), cloud.point["intensity"].numpy()
        assert points.FEWEST <= len(places) < 8000 and places.dtype == np.float32
        assert np.isfinite(places).all() and 0 <= intensity.min() <= intensity.max() <= 1
        assert np.ptp(places, axis=0).max() < 2.5 and 2 < np.linalg.norm(places[:, :2].mean(axis=0)) < 7
