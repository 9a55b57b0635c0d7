"""Restored point clouds: only x, y and z of lost rows change, from what is visible alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from readers.schema import Channel, ReadError
from tests import points_files
from toolkit import recipe as recipes
from toolkit.corpus.inputs import Input
from toolkit.errors import UsageError
from toolkit.model import masked
from toolkit.model.folder import LoadedModel
from toolkit.restoration import damage as damages
from toolkit.restoration import points, rows, spans
from toolkit.restoration.mender import Request, Restored
from toolkit.restoration.points import GroupPredictor, PointMender
from toolkit.restoration.rows import Run
from toolkit.restoration.run import Restoration

SMALL = {
    "data.points": 64,
    "data.window_rows": 4096,
    "tokenizer.centres": 8,
    "tokenizer.neighbours": 8,
    "encoder": {"width": 32, "depth": 2, "heads": 2, "head_width": 16, "mlp": 64, "class_token": True},
    "decoder": {"width": 32, "depth": 1, "heads": 2, "head_width": 16, "mlp": 64},
}


def made(**more: Any) -> LoadedModel:
    """A model that has learnt nothing."""
    recipe = recipes.resolve("point-cmae", size="tiny", flags=SMALL | {k.replace("__", "."): v for k, v in more.items()})
    return LoadedModel(masked.build(recipe).eval(), recipe, "none", Path(), ())


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return made()


class Oracle(GroupPredictor):
    """A model that knows a cloud, and gives the points of the hidden rows in an order of its own."""

    def __init__(self, model: LoadedModel, truth: NDArray) -> None:
        super().__init__(model, torch.device("cpu"))
        self.truth = truth

    def predict(self, run: Run, channel: Channel, places: NDArray) -> NDArray:
        return self.truth[run.hidden + run.start][::-1]


def spiral(count: int) -> NDArray[np.float64]:
    """A surface whose rows follow one another in space, with a few that do not."""
    turn = np.linspace(0, 12 * np.pi, count)
    found = np.stack([np.cos(turn) * (1 + 0.05 * turn), np.sin(turn) * (1 + 0.05 * turn), 0.1 * turn], axis=1)
    found += np.random.default_rng(0).normal(0, 0.01, found.shape)
    found[::17] = found[::17][::-1]
    return found


@pytest.fixture
def cloud(tmp_path: Path) -> Path:
    return written(tmp_path / "in", spiral(600))


def written(folder: Path, xyz: NDArray) -> Path:
    """A PLY file with coordinates (float64) and attributes."""
    folder.mkdir(parents=True, exist_ok=True)
    return points_files.ply(folder / "a.ply", points_files.cloud(len(xyz)) | dict(zip("xyz", xyz.T, strict=True)))


@pytest.fixture
def restore(tmp_path: Path, model: LoadedModel, request: pytest.FixtureRequest, monkeypatch) -> Callable[..., Restored]:
    """Restore a file into ``tmp_path/out``; drawing takes long, so that only one test does it."""
    if "picture" not in request.node.name:
        monkeypatch.setattr(points, "points_png", lambda path, panels: path)

    def run(path: Path, *, table: str | None = None, damage: str = "", by: Any = None, out: str = "out", **more: Any):
        if table is not None:
            (path.parent / "spans.csv").write_text(table)
            more |= {"table": spans.read_table(path.parent / "spans.csv"), "table_folder": path.parent}
        asked = Request(damage=tuple(damages.parse(damage)) if damage else (), **more)
        job = Restoration(PointMender(by or GroupPredictor(model, torch.device("cpu"))), asked, tmp_path / out, model)
        job.check([Input(path, path.parent)])
        return job.restore(Input(path, path.parent))

    return run


def columns(path: Path | str) -> dict[str, NDArray]:
    """All columns of a binary PLY file of vertices only, taken apart by hand."""
    head, body = Path(path).read_bytes().split(b"end_header\n", 1)
    codes = {name: "<" + code for code, name in points_files.PLY_TYPES.items()}
    fields = [line.split() for line in head.decode().splitlines() if line.startswith("property")]
    table = np.frombuffer(body, [(name, codes[kind]) for _, kind, name in fields])
    return {name: table[name] for _, _, name in fields}


def xyz(path: Path | str) -> NDArray:
    found = columns(path)
    return np.stack([found[axis] for axis in "xyz"], axis=1)


def sidecar(done: Restored) -> dict[str, Any]:
    return json.loads(Path(done.facts["out"]).with_suffix(".restored.json").read_text())


def hidden(done: Restored, count: int) -> NDArray[np.bool_]:
    mask = np.zeros(count, bool)
    for row in sidecar(done)["changed"]:
        mask[row["start"] : row["stop"]] = True
    return mask


def test_only_the_coordinates_of_hidden_rows_change(restore, cloud) -> None:
    done = restore(cloud, damage="block:0.1")
    before, after = columns(cloud), columns(done.facts["out"])
    mask = hidden(done, 600)
    assert mask.sum() == 60
    for name, values in before.items():
        moved = values != after[name]
        assert moved.any() == (name in "xyz"), name
        assert not (moved & ~mask).any()
    changed = (xyz(cloud) != xyz(done.facts["out"])).sum()
    assert done.facts["changed_fraction"] == pytest.approx(changed / (600 * len(before)))
    assert 0 < done.facts["changed_fraction"] <= 0.5
    again, other = restore(cloud, damage="block:0.1", out="again"), restore(cloud, damage="block:0.1", seed=1, out="other")
    assert Path(again.facts["out"]).read_bytes() == Path(done.facts["out"]).read_bytes()
    assert not np.array_equal(hidden(other, 600), mask)


@pytest.mark.parametrize("damage", [{"damage": "block:0.15"}, {"table": "path,start,stop\na.ply,100,160\na.ply,150,190\n"}])
def test_a_model_that_is_right_is_believed(restore, model, cloud, damage) -> None:
    truth = xyz(cloud)
    done = restore(cloud, by=Oracle(model, truth), reference=cloud, **damage)
    mask = hidden(done, 600)
    assert mask.sum() == 90
    assert done.facts["metrics"]["chamfer"] < 1e-12
    assert np.allclose(np.sort(xyz(done.facts["out"])[mask], axis=0), np.sort(truth[mask], axis=0), atol=1e-5)
    assert all(row["chamfer"] > 1e-5 for row in done.facts["baselines"].values())
    assert {row["weight"] for row in sidecar(done)["changed"]} == {1.0}


def test_a_model_that_is_wrong_is_not_believed(restore, model, cloud) -> None:
    done = restore(cloud, by=Oracle(model, xyz(cloud) + 50), damage="block:0.15")
    best = min(done.facts["baselines"][name]["chamfer"] for name in ("interpolation along the file", "estimated places"))
    assert done.facts["metrics"]["chamfer"] <= 3 * best
    assert {row["weight"] for row in sidecar(done)["changed"]} == {0.0}
    assert any("model did not improve" in note for note in done.notes)


def test_the_damaged_coordinates_have_no_part_in_the_repair(restore, tmp_path) -> None:
    truth = spiral(600)
    other = truth.copy()
    other[100:160] = np.random.default_rng(0).normal(size=(60, 3))
    outs = [
        xyz(restore(written(tmp_path / name, values), table="path,start,stop\na.ply,100,160\n", out=f"out-{name}").facts["out"])
        for name, values in (("one", truth), ("two", other))
    ]
    assert np.array_equal(*outs)


def test_rows_without_coordinates_are_found_and_filled(restore, tmp_path) -> None:
    values = spiral(300)
    values[40:52] = np.nan
    values[200, 1] = np.inf
    path = written(tmp_path / "in", values)
    done = restore(path)
    assert [(row["start"], row["stop"]) for row in done.facts["detected"]] == [(40, 52), (200, 201)]
    after = xyz(done.facts["out"])
    assert np.isfinite(after).all()
    known = np.isfinite(values).all(axis=1)
    assert np.array_equal(after[known], values[known])
    assert (np.abs(after[~known] - spiral(300)[~known]) < 3).all()
    assert restore(Path(done.facts["out"]), out="whole").facts["repaired"] == 0


def test_far_coordinates_keep_their_offset(restore, model, tmp_path) -> None:
    values = spiral(400) + np.array([500_000, 5_400_000, 100])
    path = written(tmp_path / "in", values)
    done = restore(path, damage="block:0.1")
    assert np.abs(xyz(done.facts["out"]) - values).max() < 10
    assert done.facts["metrics"]["hausdorff"] < 10


def test_a_long_file_is_repaired_run_by_run(restore, tmp_path) -> None:
    small = made(data__window_rows=200)
    path = written(tmp_path / "in", spiral(1100))
    done = restore(path, damage="block:0.1", by=GroupPredictor(small, torch.device("cpu")))
    mask = hidden(done, 1100)
    assert [int(mask[a:b].sum()) for a, b in rows.cuts(1100, 200)] == [18] * 6 or mask.sum() == pytest.approx(110, abs=6)
    assert (rows.cuts(1100, 200)[0], rows.cuts(1100, 200)[-1][1], rows.cuts(7, 200)) == ((0, 183), 1100, [(0, 7)])


def test_more_hidden_rows_than_visible_ones_are_all_filled(restore, cloud) -> None:
    done = restore(cloud, table="path,start,stop\na.ply,20,590\n")
    assert hidden(done, 600).sum() == 570
    assert np.isfinite(xyz(done.facts["out"])).all()


def test_balls_are_the_points_nearest_to_one_of_them() -> None:
    rng = np.random.default_rng(1)
    coords = rng.normal(size=(1000, 3))
    known = rng.random(1000) < 0.9
    mask = rows.balls(coords, known, 0.03, np.random.default_rng(2))
    assert mask.sum() == round(0.03 * known.sum())
    assert not (mask & ~known).any()
    assert not rows.balls(coords, known, 0.0, np.random.default_rng(2)).any()
    single = rows.balls(coords, known, 0.015, np.random.default_rng(3))
    inside = np.flatnonzero(single)
    distance = np.linalg.norm(coords[known][:, None] - coords[inside], axis=2)
    radii = np.sort(distance, axis=0)[len(inside) - 1]  # of the ball with as many points, around each of them
    assert any(
        set(np.flatnonzero(known)[np.argsort(distance[:, k])[: len(inside)]]) == set(inside) for k in range(len(inside))
    ), radii


def test_scores_agree_with_formulas_on_the_files_on_disk(restore, cloud) -> None:
    done = restore(cloud, damage="block:0.2")
    mask = hidden(done, 600)
    x, y = xyz(cloud), xyz(done.facts["out"])
    distance = np.linalg.norm(x[mask][:, None] - y[mask], axis=2)
    radius = np.linalg.norm(x - x.mean(axis=0), axis=1).max()
    squares = (distance.min(axis=0) ** 2).mean() + (distance.min(axis=1) ** 2).mean()
    metrics = done.facts["metrics"]
    assert metrics["chamfer"] == pytest.approx(squares / radius**2, rel=1e-3)
    assert metrics["nearest"] == pytest.approx(distance.min(axis=1).mean(), rel=1e-3)
    assert metrics["hausdorff"] == pytest.approx(max(distance.min(axis=0).max(), distance.min(axis=1).max()), rel=1e-3)
    at, seen = np.flatnonzero(mask), np.flatnonzero(~mask)
    line = np.stack([np.interp(at, seen, x[seen, k]) for k in range(3)], axis=1)
    distance = np.linalg.norm(x[mask][:, None] - line, axis=2)
    squares = (distance.min(axis=0) ** 2).mean() + (distance.min(axis=1) ** 2).mean()
    assert done.facts["baselines"]["interpolation along the file"]["chamfer"] == pytest.approx(squares / radius**2, rel=1e-3)


def test_places_are_looked_for_beside_the_hole() -> None:
    """In a file in which most rows, but not all, lie beside those before, places are nearer to the hole than interpolation's."""
    rng, middle = np.random.default_rng(0), [0.4, -0.3, 0.0]
    coords = rng.uniform(-1, 1, (2000, 3)) * [1, 1, 0]
    order = np.argsort(coords[:, 0] // 0.1 * 10 + coords[:, 1] + rng.normal(0, 0.1, 2000))
    strays = rng.permutation(2000)[:300]
    order[np.sort(strays)] = order[strays]
    coords = coords[order]
    mask = np.linalg.norm(coords - middle, axis=1) < 0.2
    run = Run(0, coords, ~mask, np.flatnonzero(mask))
    away = [np.median(np.linalg.norm(where(run) - middle, axis=1)) for where in (rows.places, rows.along)]
    assert away[0] < 0.8 * away[1]
    assert away[0] < 0.3


def test_what_cannot_be_asked_of_a_cloud(restore, cloud, tmp_path) -> None:
    with pytest.raises(UsageError, match="--channels"):
        restore(cloud, channels=("x",))
    with pytest.raises(UsageError, match="path,start,stop"):
        restore(cloud, table="path,x0,x1,y0,y1,z0,z1\na.ply,1,2,1,2,1,2\n")
    with pytest.raises(UsageError, match="whole rows"):
        restore(cloud, table="path,start,stop,channel\na.ply,1,2,x\n")
    with pytest.raises(UsageError, match="channel"):
        restore(cloud, damage="channel:0.1")
    with pytest.raises(ReadError, match="visible"):
        restore(cloud, table="path,start,stop\na.ply,0,600\n")
    with pytest.raises(ReadError, match="visible"):
        restore(written(tmp_path / "none", np.full((20, 3), np.nan)))


def test_the_picture_shows_what_was_removed(restore, cloud) -> None:
    done = restore(cloud, damage="block:0.1")
    assert Path(done.facts["picture"]).stat().st_size > 10_000
