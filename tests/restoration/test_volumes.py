"""Restored volumes: only damaged voxels change, from what is visible alone, in any orientation and on any grid."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import readers
from readers.mri_create import named_like
from readers.mri_names import parts_of
from readers.schema import ReadError
from tests import mri_files
from tests.models import talking
from toolkit import recipe as recipes
from toolkit.corpus.contrasts import Contrasts
from toolkit.corpus.inputs import Input
from toolkit.errors import UsageError
from toolkit.model.folder import LoadedModel
from toolkit.restoration import boxes, spans, volumes, voxels
from toolkit.restoration import damage as damages
from toolkit.restoration.boxes import Damaged, Hole
from toolkit.restoration.cubes import CubePredictor, Field
from toolkit.restoration.laplace import harmonic
from toolkit.restoration.mender import Request, Restored
from toolkit.restoration.run import Restoration
from toolkit.restoration.volumes import VolumeMender

SHAPE = (26, 30, 22)
SMALL = {
    "data.spacing_mm": 2.0,
    "data.window_mm": 32.0,
    "data.grids": "headers",
    "tokenizer.patch": 4,
    "encoder": {"width": 32, "depth": 2, "heads": 2, "head_width": 16, "mlp": 64},
    "decoder": {"width": 32, "depth": 1, "heads": 2, "head_width": 16, "mlp": 64},
}


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    """A model that has learnt nothing."""
    recipe = recipes.resolve("bm-mae", size="tiny", flags=SMALL)
    return LoadedModel(talking(recipe).eval(), recipe, "none", Path(), ())


@pytest.fixture(scope="module")
def predictor(model: LoadedModel) -> CubePredictor:
    return CubePredictor(model, torch.device("cpu"))


@pytest.fixture(autouse=True)
def _no_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of the time; one test looks at a picture."""
    if "picture" not in request.node.name:
        monkeypatch.setattr(volumes, "volume_png", lambda path, panels: path)


class Oracle(CubePredictor):
    """A model that knows a function of RAS mm (3, ...) and predicts it, whatever is hidden."""

    def __init__(self, model: LoadedModel, function: Callable[[NDArray], NDArray]) -> None:
        super().__init__(model, torch.device("cpu"))
        self.function = function

    def predict(self, seen: Damaged, channels: Sequence[int], holes: Sequence[Hole]) -> dict[int, Field]:
        shape, affine = seen.grid(self.data.spacing_mm)
        values = self.function(places(tuple(n + 8 for n in shape), affine, -4))
        return {h.channel: Field(values, (-4, -4, -4), affine) for h in holes}


def places(shape: Sequence[int], affine: NDArray, first: int = 0) -> NDArray:
    """RAS mm of voxels, (3, X, Y, Z)."""
    index = np.stack(np.meshgrid(*[np.arange(n) + first for n in shape], indexing="ij"), axis=-1)
    return np.moveaxis(index @ affine[:3, :3].T + affine[:3, 3], -1, 0)


def bent(mm: NDArray) -> NDArray:
    """A smooth function without any symmetry of the axes, which no harmonic fill guesses."""
    x, y, z = mm / 10
    return 100 + 20 * x**2 + 9 * y**2 - 3 * z**2 + 4 * x * y + 5 * np.sin(2 * z)


def straight(mm: NDArray) -> NDArray:
    x, y, z = mm
    return 300 + 2 * x - 3 * y + 5 * z


@pytest.fixture
def restore(tmp_path: Path, model: LoadedModel, predictor: CubePredictor) -> Callable[..., Restored]:
    """Restore a file (and its session) into ``tmp_path/out``."""

    def run(path: Path, *parts: Path, table: str | None = None, damage: str = "", by: Any = None, out: str = "out", **more: Any):
        if table is not None:
            (path.parent / "spans.csv").write_text(table)
            more |= {"table": spans.read_table(path.parent / "spans.csv"), "table_folder": path.parent}
        request = Request(damage=tuple(damages.parse(damage)) if damage else (), **more)
        job = Restoration(VolumeMender(by or predictor), request, tmp_path / out, model)
        item = Input(path, path.parent, parts=parts)
        job.check([item])
        return job.restore(item)

    return run


def stored(path: Path | str) -> NDArray:
    return np.asarray(nib.load(str(path)).dataobj)  # type: ignore[attr-defined]


def sidecar(done: Restored) -> dict[str, Any]:
    return json.loads(Path(str(done.facts["out"]).replace(".gz", "")).with_suffix(".restored.json").read_text())


def inside(shape: Sequence[int], *ends: Sequence[int]) -> NDArray[np.bool_]:
    mask = np.zeros(shape, bool)
    for x0, x1, y0, y1, z0, z1 in ends:
        mask[x0:x1, y0:y1, z0:z1] = True
    return mask


TURNED = np.array([[0, -1.2, 0, 14], [0, 0, 1.6, -17], [1.1, 0, 0, -13], [0, 0, 0, 1.0]])  # axes permuted, one flipped
AFFINES = {
    "straight": mri_files.affine(origin=(-13, -15, -11)),
    "permuted and flipped": TURNED,
    "all flipped": np.array([[-1, 0, 0, 13], [0, -1.5, 0, 22], [0, 0, -2, 22], [0, 0, 0, 1.0]]),
    "oblique": mri_files.affine((1.3, 0.9, 1.7), (20, -15, 35)),
}


@pytest.mark.parametrize("where", AFFINES.values(), ids=AFFINES)
def test_a_linear_function_of_space_comes_back_exactly(restore, model, tmp_path, where) -> None:
    truth = straight(places(SHAPE, where))
    path = mri_files.volume(tmp_path / "in", "a_T1w", truth, dtype="float32", where=where)
    done = restore(path, table="path,x0,x1,y0,y1,z0,z1\na_T1w.nii,6,14,9,20,7,13\n", by=Oracle(model, straight))
    assert np.abs(stored(done.facts["out"]) - truth).max() < 1e-3
    done = restore(path, damage="block:0.1", out="flat", by=Oracle(model, lambda mm: 0 * mm[0] + 7))
    assert np.abs(stored(done.facts["out"]) - truth)[3:-3, 3:-3, 3:-3].max() < 5e-2
    assert done.facts["baselines"]["harmonic interpolation"]["nmse"] < 1e-3


@pytest.mark.parametrize("where", AFFINES.values(), ids=AFFINES)
def test_what_the_model_predicts_lands_in_its_place(restore, model, tmp_path, where) -> None:
    truth = bent(places(SHAPE, where))
    path = mri_files.volume(tmp_path / "in", "a_T1w", truth, dtype="float32", where=where)
    done = restore(path, damage="block:0.15", by=Oracle(model, bent))
    assert done.facts["metrics"]["nmse"] < 0.15 * done.facts["baselines"]["harmonic interpolation"]["nmse"]
    assert min(row["weight"] for row in sidecar(done)["changed"]) > 0.85


def test_a_model_that_is_wrong_is_not_believed(restore, model, tmp_path) -> None:
    where = AFFINES["straight"]
    path = mri_files.volume(tmp_path / "in", "a_T1w", bent(places(SHAPE, where)), dtype="float32", where=where)
    done = restore(path, damage="block:0.15", by=Oracle(model, lambda mm: -bent(mm)))
    assert done.facts["metrics"]["nmse"] == pytest.approx(done.facts["baselines"]["harmonic interpolation"]["nmse"])
    assert {row["weight"] for row in sidecar(done)["changed"]} == {0.0}


def test_damage_changes_only_its_boxes_and_the_same_seed_gives_the_same_file(restore, tmp_path) -> None:
    path = mri_files.volume(tmp_path / "in", "a_T1w", mri_files.head(SHAPE), where=TURNED, compressed=True)
    done = restore(path, damage="block:0.1")
    before, after = stored(path), stored(done.facts["out"])
    boxes_of = [row["box"] for row in sidecar(done)["changed"]]
    moved = before != after
    assert moved.any()
    assert not (moved & ~inside(SHAPE, *boxes_of)).any()
    assert done.facts["changed_fraction"] == pytest.approx(moved.mean())
    assert 0 < done.facts["changed_fraction"] <= 0.5
    one, other = nib.load(path), nib.load(done.facts["out"])
    assert one.header == other.header  # type: ignore[attr-defined]
    again, third = restore(path, damage="block:0.1", out="again"), restore(path, damage="block:0.1", seed=1, out="third")
    assert Path(again.facts["out"]).read_bytes() == Path(done.facts["out"]).read_bytes()
    assert sidecar(third)["changed"] != sidecar(done)["changed"]


def test_the_picture_shows_the_volume_and_its_box_in_ras(restore, tmp_path, monkeypatch) -> None:
    panels: list[Any] = []
    draw = volumes.volume_png
    monkeypatch.setattr(volumes, "volume_png", lambda path, shown: panels.extend(shown) or draw(path, shown))
    truth = straight(places(SHAPE, TURNED))
    path = mri_files.volume(tmp_path / "in", "a_T1w", truth, dtype="float32", where=TURNED)
    done = restore(path, table="path,x0,x1,y0,y1,z0,z1\na_T1w.nii,8,15,10,18,8,14\n", reference=path)
    (panel,) = panels
    assert np.allclose(panel["truth"], straight(places(panel["truth"].shape, panel["affine"])), rtol=1e-5)
    at = inside(panel["truth"].shape, [end for pair in zip(panel["box"].start, panel["box"].stop, strict=True) for end in pair])
    assert np.array_equal(np.isnan(panel["before"]), at)
    assert np.isfinite(panel["after"]).all()
    assert Path(done.facts["picture"]).stat().st_size > 10_000


def test_damage_hides_its_share_of_the_head(tmp_path) -> None:
    shape = (50, 60, 40)
    recording = readers.open_recording(
        mri_files.volume(tmp_path, "a_T1w", mri_files.head(shape), where=mri_files.affine((3, 3, 4)))
    )
    head = Hole(0, (5, 5, 4), (45, 55, 36))
    for severity in (0.02, 0.1, 0.3):
        made = boxes.make(recording, [0], head, [("block", severity)], 0)
        mask = inside(shape, *[hole.ends for hole in made])
        within = inside(shape, head.ends)
        assert mask[within].mean() == pytest.approx(severity, rel=0.05)
        assert not mask[~within].any()
        sides = (np.array([h.stop for h in made]) - [h.start for h in made]) * (3, 3, 4)
        assert sides.max() <= 42


def test_the_damaged_values_have_no_part_in_the_repair(restore, tmp_path) -> None:
    values = mri_files.head(SHAPE)
    other = values.copy()
    other[8:15, 10:18, 8:14] = np.random.default_rng(0).uniform(0, 5000, (7, 8, 6))
    table = "path,x0,x1,y0,y1,z0,z1\na_T1w.nii,8,15,10,18,8,14\n"
    outs = []
    for name, content in (("one", values), ("two", other)):
        path = mri_files.volume(tmp_path / name, "a_T1w", content, dtype="float32", where=TURNED)
        outs.append(stored(restore(path, table=table, out=f"out-{name}").facts["out"]))
    assert np.array_equal(*outs)


def test_voxels_that_are_not_finite_are_found_and_filled(restore, tmp_path) -> None:
    values = mri_files.head(SHAPE)
    values[10:14, 12:17, 9:12] = np.nan
    values[10, 12, 9] = 500  # not damaged, though in the box
    values[3, 4, 5] = np.inf
    path = mri_files.volume(tmp_path / "in", "a_T1w", values, dtype="float32")
    done = restore(path)
    assert sorted(row["box"] for row in done.facts["detected"]) == [[3, 4, 4, 5, 5, 6], [10, 14, 12, 17, 9, 12]]
    after = stored(done.facts["out"])
    assert np.isfinite(after).all()
    known = np.isfinite(values)
    assert np.array_equal(after[known], values[known].astype(np.float32))
    assert done.facts["metrics"] is None


def test_a_background_that_is_not_finite_is_no_damage(restore, tmp_path) -> None:
    values = mri_files.head(SHAPE)
    values[values == 0] = np.nan
    values[12:14, 14:16, 10:12] = np.nan
    path = mri_files.volume(tmp_path / "in", "a_T1w", values, dtype="float32")
    done = restore(path)
    after = stored(done.facts["out"])
    assert np.isfinite(after[12:14, 14:16, 10:12]).all()
    assert np.isnan(after).sum() == np.isnan(values).sum() - 8
    assert any("background" in note for note in done.notes)


@pytest.mark.parametrize("name", ["T2w", "T2"])
def test_a_contrast_is_rebuilt_from_the_others(restore, tmp_path, name) -> None:
    names = ("T1w", "T2", "FLAIR")
    first, *rest = [
        mri_files.volume(tmp_path / "in", f"sub-1_{n}", mri_files.head(SHAPE, n, seed=k), compressed=True)
        for k, n in enumerate(names)
    ]
    done = restore(first, *rest, channels=(name,), reference=first.parent)
    out = tmp_path / "out"
    assert done.facts["task"] == "modality"
    assert (out / first.name).read_bytes() == first.read_bytes()
    assert (out / rest[1].name).read_bytes() == rest[1].read_bytes()
    assert (stored(out / rest[0].name) != stored(rest[0])).mean() > 0.5
    assert set(done.facts["baselines"]) == {"copy of T1w", "copy of FLAIR", "mean of the others", "flat"}
    assert done.facts["baselines"]["flat"]["nmse"] == pytest.approx(1)
    assert done.facts["baselines"]["mean of the others"]["nmse"] < 1
    assert any("unit is not known" in note for note in done.notes)
    with pytest.raises(UsageError, match="no channel 'T9'|T9"):
        restore(first, *rest, channels=("T9",), out="none")


TOLD = Contrasts(("FLAIR", "T1w", "T2w"), np.array([1.0, 2, 700]), np.array([1.0, 1, 50]), np.diag([1.0, 4, 4, 4]))


def test_a_contrast_that_a_session_lacks_is_written_on_the_grid_of_the_others(restore, model, tmp_path) -> None:
    first, second = [
        mri_files.volume(tmp_path / "in", f"sub-1_{n}", mri_files.head(SHAPE, n), where=TURNED, compressed=True)
        for n in ("T1w", "FLAIR")
    ]
    image = nib.load(first)
    image.header.set_qform(TURNED, 1)  # type: ignore[attr-defined]
    nib.save(image, first)  # type: ignore[attr-defined]
    before = [path.read_bytes() for path in (first, second)]
    done = restore(first, second, missing=("T2w",), task="modality")
    made, held = nib.load(tmp_path / "out/sub-1_T2w.nii.gz"), nib.load(first)
    assert done.facts["out"] == str(tmp_path / "out/sub-1_T2w.nii.gz")
    assert sorted(p.name for p in (tmp_path / "out").glob("*.nii*")) == ["sub-1_T2w.nii.gz"]
    assert made.shape == held.shape == SHAPE  # type: ignore[attr-defined]
    for form in ("get_qform", "get_sform"):
        one, other = (getattr(i, form)(coded=True) for i in (made, held))
        np.testing.assert_allclose(one[0], other[0], atol=1e-5)
        assert one[1] == other[1]
    assert made.header.get_xyzt_units() == held.header.get_xyzt_units()  # type: ignore[attr-defined]
    assert stored(done.facts["out"]).std() > 1 and np.isfinite(stored(done.facts["out"])).all()
    assert [path.read_bytes() for path in (first, second)] == before
    assert "its unit is not known" in sidecar(done)["scale"] and any("unit is not known" in note for note in done.notes)
    assert done.facts["metrics"] is None and done.facts["repaired"] == 1
    with pytest.raises(UsageError, match="makes no 'T3w'"):
        restore(first, second, missing=("T3w",), out="none")


def test_a_contrast_that_a_session_lacks_is_written_in_the_unit_of_the_training_data(restore, model, tmp_path) -> None:
    first, second = [mri_files.volume(tmp_path / "in", f"sub-1_{n}", mri_files.head(SHAPE, n)) for n in ("T1w", "FLAIR")]
    told = CubePredictor(model, torch.device("cpu"))
    made = []
    for place, times in (("one", 1), ("ten", 10)):
        alike = np.diag([1.0, 4, 4, 4])
        alike[2, 3] = alike[3, 2] = 2  # T1w says something of T2w
        told.contrasts = Contrasts(TOLD.names, TOLD.offset * (1, 1, times), TOLD.scale * (1, 1, times), alike)
        done = restore(first, second, missing=("T2w",), by=told, out=place)
        said = f"a mean of {700 * times} and a deviation of {50 * times}"
        assert said in sidecar(done)["scale"] and not any("unit" in note for note in done.notes)
        made.append(stored(done.facts["out"]))
    assert made[0].std() > 1
    np.testing.assert_allclose(made[1], 10 * made[0], rtol=1e-4)


def test_a_contrast_that_is_made_whole_takes_its_detail_from_the_others(restore, model, tmp_path) -> None:
    """What the model predicts is smooth; what the others show finely is in what is made, as the prediction follows them."""
    where = mri_files.affine(origin=(-13, -15, -11))
    slow = 100 * sum(np.sin(axis / 6) for axis in places(SHAPE, where))
    fine = np.random.default_rng(0).normal(0, 40, SHAPE)
    path = mri_files.volume(tmp_path / "in", "a_T1w", 900 + slow + fine, dtype="float32", where=where)
    truth = 1500 - 2 * (slow + fine)
    by = Oracle(model, lambda mm: 1500 - 200 * sum(np.sin(axis / 6) for axis in mm))
    errors = []
    for place, told in (("prediction", None), ("usual line", Contrasts(("T1w", "T2w"), np.zeros(2), np.ones(2), np.eye(3)))):
        by.contrasts = told  # which says that T1w tells nothing of T2w
        done = restore(path, missing=("T2w",), by=by, out=place)
        assert "guided filter" in sidecar(done)["scale"]
        errors.append((stored(done.facts["out"]) - truth).std())
    assert errors[0] < 0.3 * 80 < 0.7 * 80 < errors[1]


def test_a_contrast_that_is_there_is_hidden_and_scored_against_its_file(restore, model, tmp_path) -> None:
    names = ("T1w", "T2w", "FLAIR")
    heads = [mri_files.head(SHAPE, n, seed=k) for k, n in enumerate(names)]
    paths = [mri_files.volume(tmp_path / "in", f"sub-1_{n}", h, dtype="float32") for n, h in zip(names, heads, strict=True)]
    told = CubePredictor(model, torch.device("cpu"))
    told.contrasts = TOLD
    done = restore(*paths, missing=("T2w",), by=told)
    truth = stored(paths[1]).astype(float)
    inside_head = truth > truth.mean()  # a head without holes
    estimate = stored(tmp_path / "out/sub-1_T2w.nii").astype(float)
    x, y = estimate[inside_head], truth[inside_head]
    fit = np.polyval(np.polyfit(x, y, 1), x)
    metrics = done.facts["metrics"]
    assert metrics["psnr_db"] == pytest.approx(20 * np.log10((y.max() - y.min()) / np.sqrt(((fit - y) ** 2).mean())), abs=0.1)
    assert metrics["psnr_written_db"] == pytest.approx(20 * np.log10(np.ptp(y) / np.sqrt(((x - y) ** 2).mean())), abs=0.1)
    copied = stored(paths[2]).astype(float)[inside_head]
    fit = np.polyval(np.polyfit(copied, y, 1), copied)
    row = done.facts["baselines"]["copy of FLAIR"]
    assert row["psnr_db"] == pytest.approx(20 * np.log10(np.ptp(y) / np.sqrt(((fit - y) ** 2).mean())), abs=0.1)
    assert set(done.facts["baselines"]) == {"copy of T1w", "copy of FLAIR", "mean of the others", "linear in the others", "flat"}
    assert 0 < row["ssim"] <= 1 and "by_channel" in metrics


def test_the_values_of_a_hidden_contrast_have_no_part_in_what_is_made_in_its_place(restore, tmp_path) -> None:
    outs = []
    for place, level in (("one", 1.0), ("two", 7.0)):
        paths = [
            mri_files.volume(tmp_path / place, f"a_{n}", mri_files.head(SHAPE, n), dtype="float32") for n in ("T1w", "FLAIR")
        ]
        paths.insert(1, mri_files.volume(tmp_path / place, "a_T2w", level * mri_files.head(SHAPE, "T2w"), dtype="float32"))
        restore(*paths, missing=("T2w",), out=f"out-{place}")
        outs.append(stored(tmp_path / f"out-{place}/a_T2w.nii"))
    assert np.array_equal(*outs)


def test_a_head_larger_than_the_cube_is_made_whole_from_overlapping_windows(restore, predictor, tmp_path) -> None:
    shape = (40, 44, 36)
    paths = [
        mri_files.volume(tmp_path / "in", f"a_{n}", mri_files.head(shape, n), where=mri_files.affine((2, 2, 2)), dtype="float32")
        for n in ("T1w", "FLAIR")
    ]
    recording = Damaged(readers.open_recording(paths[0], paths[1:]), [], ["T2w"])
    assert len(predictor.framing(recording).plan(recording, 32.0, 32.0)) > 8
    field = predictor.predict(recording, [0, 1, 2], [boxes.whole(recording, 2)])[2]
    done = restore(*paths, missing=("T2w",))
    made = stored(done.facts["out"])
    box = predictor.framing(recording).head(recording)
    assert np.isfinite(field.at(recording.affine_of(0), box.start, box.stop)).all()
    assert all(len(np.unique(made[x])) > 50 for x in range(box.start[0], box.stop[0]))


@pytest.mark.parametrize(
    ("name", "contrast", "want"),
    [
        ("sub-1_ses-2_T1w.nii.gz", "T2w", "sub-1_ses-2_T2w.nii.gz"),
        ("BraTS-GLI-00001-000-t1n.nii.gz", "FLAIR", "BraTS-GLI-00001-000-FLAIR.nii.gz"),
        ("BraTS2021_00001_t1ce.nii", "T1w", "BraTS2021_00001_T1w.nii"),
        ("scan.hdr", "T2w", "scan_T2w.nii"),
    ],
)
def test_new_contrasts_are_named_like_their_session_and_read_as_what_they_are(name, contrast, want) -> None:
    found = named_like(Path("x") / name, contrast)
    assert found == Path("x") / want
    assert parts_of(found).contrast == contrast


def test_channel_damage_needs_another_contrast(restore, tmp_path) -> None:
    first, *rest = mri_files.session(tmp_path / "in")
    done = restore(first, *rest, damage="channel:0.4")
    assert done.facts["task"] == "modality"
    assert [row["why"] for row in sidecar(done)["changed"]] == ["channel"]
    with pytest.raises(ReadError, match="one contrast"):
        restore(first, damage="channel:0.4", out="alone")
    with pytest.raises(ReadError, match="visible"):
        restore(first, channels=("T1w",), out="alone")


@pytest.mark.parametrize("depth", [11, 10, 9, 8])
def test_a_thin_slab_is_seen_where_a_cube_fits_in_it(restore, tmp_path, depth) -> None:
    first, second = [
        mri_files.volume(tmp_path / "in", f"a_{n}", mri_files.head((26, 30, 20), n)[:, :, :depth]) for n in ("T1w", "T2w")
    ]
    restore(first, second, channels=("T2w",))
    assert stored(tmp_path / "out/a_T2w.nii").std() > 1


def test_a_slab_thinner_than_a_cube_is_refused(restore, tmp_path) -> None:
    first, second = [mri_files.volume(tmp_path / "in", f"a_{n}", mri_files.head(SHAPE, n)[:, :, 9:15]) for n in ("T1w", "T2w")]
    with pytest.raises(ReadError, match="cube of 8 mm"):
        restore(first, second, channels=("T2w",))
    done = restore(first, second, damage="block:0.1")  # what a harmonic fill does, needs no model
    assert done.facts["metrics"]["nmse"] == pytest.approx(done.facts["baselines"]["harmonic interpolation"]["nmse"])


def test_boxes_reach_contrasts_on_other_grids(restore, tmp_path) -> None:
    """A box of the first contrast, in mm, is the box of the second, whose voxels are larger and run elsewhere."""
    one = mri_files.affine(origin=(-13, -15, -11))
    other = np.array([[0, 0, -2, 12], [2, 0, 0, -14], [0, 2, 0, -10], [0, 0, 0, 1.0]])
    first = mri_files.volume(tmp_path / "in", "a_T1w", straight(places(SHAPE, one)), dtype="float32", where=one)
    second = mri_files.volume(tmp_path / "in", "a_T2w", straight(places((15, 11, 13), other)), dtype="float32", where=other)
    done = restore(first, second, table="path,x0,x1,y0,y1,z0,z1,channel\na_T1w.nii,6,14,9,20,7,13,T2w\n")
    (row,) = sidecar(done)["changed"]
    low, high = places(SHAPE, one)[:, 6, 9, 7], places(SHAPE, one)[:, 13, 19, 12]
    mm = places((15, 11, 13), other)
    want = np.all([(mm[k] >= low[k] - 1e-6) & (mm[k] <= high[k] + 1e-6) for k in range(3)], axis=0)
    assert np.array_equal(inside((15, 11, 13), row["box"]), want)
    moved = stored(tmp_path / "out/a_T2w.nii") != stored(second)
    assert not (moved & ~want).any()
    assert Path(done.facts["out"]).read_bytes() == first.read_bytes()


def test_spans_of_other_recordings_are_refused(restore, tmp_path) -> None:
    path = mri_files.volume(tmp_path / "in", "a_T1w", mri_files.head(SHAPE))
    with pytest.raises(UsageError, match="x0,x1,y0,y1,z0,z1"):
        restore(path, table="path,start,stop\na_T1w.nii,1,2\n")
    with pytest.raises(UsageError, match="T9"):
        restore(path, table="path,x0,x1,y0,y1,z0,z1,channel\na_T1w.nii,1,2,1,2,1,2,T9\n")
    for row, hint in (("1,1,1,2,1,2", "x1 later than x0"), ("1,two,1,2,1,2", "'two'"), ("1,2,1,2,1,2.5", "'2.5'")):
        with pytest.raises(UsageError, match=hint):
            restore(path, table=f"path,x0,x1,y0,y1,z0,z1\na_T1w.nii,{row}\n")
    with pytest.raises(UsageError, match="'z1'"):
        restore(path, table="path,x0,x1,y0,y1,z0\na_T1w.nii,1,2,1,2,1\n")
    done = restore(path, table="path,x0,x1,y0,y1,z0,z1\na_T1w.nii,20,99,-5,4,-9,8\na_T1w.nii,90,99,1,2,1,2\n")
    assert [row["box"] for row in sidecar(done)["changed"]] == [[20, 26, 0, 4, 0, 8]]


def test_scores_agree_with_formulas_on_the_files_on_disk(restore, tmp_path) -> None:
    path = mri_files.volume(tmp_path / "in", "a_T1w", mri_files.head(SHAPE), dtype="float32")
    done = restore(path, table="path,x0,x1,y0,y1,z0,z1\na_T1w.nii,8,15,10,18,8,14\n", reference=path)
    at = inside(SHAPE, (8, 15, 10, 18, 8, 14))
    x, y = stored(path)[at].astype(float), stored(done.facts["out"])[at].astype(float)
    metrics = done.facts["metrics"]
    assert metrics["mae"] == pytest.approx(np.abs(x - y).mean(), rel=1e-4)
    assert metrics["voxels"] == at.sum()
    (row,) = sidecar(done)["changed"]
    assert metrics["nmse"] == pytest.approx(((x - y) ** 2).sum() / ((x - row["level"]) ** 2).sum(), rel=1e-4)
    visible = stored(path)[~at]
    assert visible.mean() < row["level"] < visible[visible > 0].mean()  # the box around a head holds air, but less
    flat = done.facts["baselines"]["mean of the surroundings"]
    around = stored(path)[7:16, 9:19, 7:15][~inside((9, 10, 8), (1, 8, 1, 9, 1, 7))].mean()
    assert flat["mae"] == pytest.approx(np.abs(x - around).mean(), rel=1e-4)


def test_a_harmonic_fill_is_the_solution_of_its_equations() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(6, 7, 5))
    hole = rng.random(values.shape) < 0.4
    values[0, 0, :2] = np.nan  # unknown, though not to be filled
    hole[0, 0, :2] = False
    spacing = (1.0, 2.0, 0.7)
    found = harmonic(values, hole, spacing)
    assert np.array_equal(found[~hole], values[~hole], equal_nan=True)
    checked = 0
    for at in np.argwhere(hole):
        total, weight = 0.0, 0.0
        for axis, step in enumerate(spacing):
            for way in (-1, 1):
                beside = at.copy()
                beside[axis] += way
                if 0 <= beside[axis] < values.shape[axis] and np.isfinite(found[tuple(beside)]):
                    total += found[tuple(beside)] / step**2
                    weight += 1 / step**2
        assert found[tuple(at)] == pytest.approx(total / weight, abs=1e-5)
        checked += 1
    assert checked == hole.sum() > 30
    assert np.isnan(harmonic(np.full((3, 3, 3), np.nan), np.ones((3, 3, 3), bool), spacing)).all()


def test_levels_of_nothing_are_not_known() -> None:
    assert voxels.Level.of(np.empty(0)) is None
    level = voxels.Level.of(np.array([3.0, 3.0]))
    assert level is not None
    assert (level.mean, level.deviation) == (3.0, 1.0)
