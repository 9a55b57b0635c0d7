from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from toolkit.demo import head, mri
from toolkit.demo.head import NAMES, TISSUES, Tissue
from toolkit.errors import UsageError

STRAIGHT = np.eye(3)


def tissue_at(fractions: head.FloatArray, name: str) -> head.FloatArray:
    return fractions[NAMES.index(name)]


@pytest.fixture(scope="module")
def centres() -> head.FloatArray:
    shape, affine = mri.grid(mri.SCANNERS[0], STRAIGHT)
    return mri.places(shape, affine)


@pytest.fixture(scope="module")
def heads(centres: head.FloatArray) -> list[tuple[str, head.Anatomy, head.FloatArray]]:
    sessions = [mri.draw_session(index, 0) for index in range(2)]
    return [(label, anatomy, head.tissues(centres, anatomy)) for label, anatomy in sessions]


def relaxed(magnetisation: head.FloatArray, milliseconds: float, tissue: Tissue) -> head.FloatArray:
    """Free precession on resonance: the Bloch equations' exact solution."""
    x, y, z = magnetisation
    transverse, longitudinal = np.exp(-milliseconds / tissue.t2), np.exp(-milliseconds / tissue.t1)
    return np.array([x * transverse, y * transverse, tissue.protons + (z - tissue.protons) * longitudinal])


def pulse(magnetisation: head.FloatArray, degrees: float) -> head.FloatArray:
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]) @ magnetisation


@pytest.mark.parametrize("name", [n for n in NAMES if n != "air"])
@pytest.mark.parametrize("echo", [25.0, 100.0])
def test_the_spin_echo_is_the_steady_state_of_the_bloch_equations(name: str, echo: float) -> None:
    tissue, magnetisation, signal = TISSUES[name], np.array([0.0, 0.0, 1.0]), 0.0
    for _ in range(30):
        magnetisation = pulse(magnetisation, 90)
        magnetisation = pulse(relaxed(magnetisation, echo / 2, tissue), 180)
        magnetisation = relaxed(magnetisation, echo / 2, tissue)
        signal = abs(magnetisation[0])
        magnetisation = relaxed(magnetisation, 3300.0 - echo, tissue) * [0, 0, 1]  # what is left across has dephased
    assert head.spin_echo(tissue, 3300.0, echo) == pytest.approx(signal, rel=1e-6)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "air"])
def test_the_spoiled_echo_is_the_steady_state_of_the_bloch_equations(name: str) -> None:
    tissue, magnetisation, signal = TISSUES[name], np.array([0.0, 0.0, 1.0]), 0.0
    for _ in range(4000):
        magnetisation = pulse(magnetisation, 30.0)
        signal = abs(magnetisation[0]) * np.exp(-10.0 / tissue.t2_star)
        magnetisation = relaxed(magnetisation, 18.0, tissue) * [0, 0, 1]
    assert head.spoiled_echo(tissue, 18.0, 10.0, 30.0) == pytest.approx(signal, rel=1e-6)


def test_the_ernst_angle_gives_the_strongest_spoiled_echo() -> None:
    tissue = TISSUES["white"]
    angles = np.linspace(1, 90, 2000)
    best = angles[np.argmax([head.spoiled_echo(tissue, 18.0, 10.0, a) for a in angles])]
    assert best == pytest.approx(np.degrees(np.arccos(np.exp(-18.0 / tissue.t1))), abs=0.1)


def test_contrasts_order_tissues_as_radiologists_know_them() -> None:
    order = {
        contrast: sorted(("csf", "grey", "white"), key=lambda name: mri.head.contrast_signals(contrast)[NAMES.index(name)])
        for contrast in mri.CONTRASTS
    }
    assert order == {"T1w": ["csf", "grey", "white"], "T2w": ["white", "grey", "csf"], "PDw": ["white", "grey", "csf"]}
    by_name = dict(zip(NAMES, head.contrast_signals("T2w"), strict=True))
    assert by_name["lesion"] > 1.8 * by_name["white"] and by_name["air"] == 0
    by_name = dict(zip(NAMES, head.contrast_signals("T1w"), strict=True))
    assert max(by_name, key=lambda name: by_name[name]) == "fat" and by_name["lesion"] < by_name["white"]


def test_noise_is_rician() -> None:
    rng = np.random.default_rng(0)
    for level in (0.0, 1.0, 5.0):
        drawn = head.rician(np.full(40_000, level), 1.0, rng)
        law = stats.rice(level) if level else stats.rayleigh()
        assert stats.kstest(drawn, law.cdf).pvalue > 1e-3
    assert stats.kstest(drawn, stats.rice(4.9).cdf).pvalue < 1e-3  # the test can tell


def test_fractions_are_of_one(heads: list[tuple[str, head.Anatomy, head.FloatArray]]) -> None:
    for _, _, fractions in heads:
        assert fractions.min() >= 0
        np.testing.assert_allclose(fractions.sum(axis=0), 1, atol=1e-12)


def test_volumes_are_those_of_a_head(heads: list[tuple[str, head.Anatomy, head.FloatArray]]) -> None:
    for label, anatomy, fractions in heads:
        ml = {n: float(v) for n, v in zip(NAMES, fractions.sum(axis=(1, 2, 3)) * np.prod(mri.SPACING_MM) / 1000, strict=True)}
        assert 450 < ml["grey"] < 950 and 400 < ml["white"] < 850 and 100 < ml["csf"] < 400
        assert 5 < ml["ventricle"] < 70 and ml["ventricle"] == pytest.approx(mri.ventricle_volume(fractions))
        assert (ml["lesion"] > 0.5) == (label == "lesion") == bool(anatomy.lesions)


def test_an_ellipsoid_of_equal_axes_gives_the_distance() -> None:
    rng = np.random.default_rng(0)
    places, centre = rng.uniform(-60, 60, (500, 3)), np.array([3.0, -8.0, 1.0])
    got = head.ellipsoid(places, centre, np.full(3, 40.0))
    np.testing.assert_allclose(got, 40.0 - np.linalg.norm(places - centre, axis=1), atol=1e-9)
    half = np.array([20.0, 40.0, 30.0])
    on = rng.normal(size=(200, 3))
    on /= np.linalg.norm(on, axis=1, keepdims=True)
    np.testing.assert_allclose(head.ellipsoid(centre + on * half, centre, half), 0, atol=1e-9)
    further = head.ellipsoid(centre + on * half * 1.01, centre, half)
    normal = on / half / np.linalg.norm(on / half, axis=1, keepdims=True)
    np.testing.assert_allclose(further, -(0.01 * on * half * normal).sum(axis=1), rtol=0.03)  # along the normal, first order


def test_lesions_lie_in_white_matter_and_change_nothing_else(centres: head.FloatArray) -> None:
    index = next(i for i in range(2) if mri.draw_session(i, 0)[0] == "lesion")
    anatomy = mri.draw_session(index, 0)[1]
    with_them = head.tissues(centres, anatomy)
    without = head.tissues(centres, head.Anatomy(**{**vars(anatomy), "lesions": ()}))
    changed = {name for name in NAMES if not np.array_equal(tissue_at(with_them, name), tissue_at(without, name))}
    assert changed == {"white", "lesion"}
    both = tissue_at(with_them, "lesion") + tissue_at(with_them, "white")
    np.testing.assert_allclose(both, tissue_at(without, "white"), atol=1e-12)
    for centre, _ in anatomy.lesions:
        moved = centre - sum(waves.at(centre) * axis for waves, axis in zip(anatomy.bending, np.eye(3), strict=True))
        near = np.linalg.norm(centres - moved, axis=-1) < 6
        assert tissue_at(with_them, "lesion")[near].max() > 0.3
    far = np.min([np.linalg.norm(centres - centre, axis=-1) for centre, _ in anatomy.lesions], axis=0) > 25
    assert tissue_at(with_them, "lesion")[far].max() < 1e-3


def test_age_widens_the_ventricles() -> None:
    anatomies = [head.draw_anatomy(np.random.default_rng(seed), lesions=False) for seed in range(200)]
    assert np.corrcoef([a.age for a in anatomies], [a.ventricles for a in anatomies])[0, 1] > 0.8
    assert np.corrcoef([a.age for a in anatomies], [a.cortex for a in anatomies])[0, 1] < -0.8


def test_the_field_of_waves_has_its_deviation() -> None:
    rng = np.random.default_rng(4)
    waves = head.draw_waves(rng, 40, 20, 30, 2.5)
    values = waves.at(rng.uniform(-2000, 2000, (20_000, 3)))
    assert values.std() == pytest.approx(2.5, rel=0.1) and abs(values.mean()) < 0.1


@pytest.mark.parametrize("scanner", mri.SCANNERS, ids=lambda s: s.axes)
def test_the_affine_has_the_scanners_axes(scanner: mri.Scanner) -> None:
    nibabel = pytest.importorskip("nibabel")
    tilt = mri.turn(np.array([3.0, -5.0, 4.0]))
    shape, affine = mri.grid(scanner, tilt)
    assert "".join(nibabel.aff2axcodes(affine)) == scanner.axes
    spacing = dict(zip("RAS", mri.SPACING_MM, strict=True)) | dict(zip("LPI", mri.SPACING_MM, strict=True))
    np.testing.assert_allclose(nibabel.affines.voxel_sizes(affine), [spacing[a] for a in scanner.axes])
    where = mri.places(shape, affine)
    np.testing.assert_allclose(where.mean(axis=(0, 1, 2)), 0, atol=1e-9)
    np.testing.assert_allclose(where[1, 2, 3], nibabel.affines.apply_affine(affine, [1, 2, 3]))


def test_a_turn_is_a_rotation() -> None:
    rotation = mri.turn(np.array([10.0, 20.0, -30.0]))
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1)
    np.testing.assert_allclose(mri.turn(np.array([0.0, 0.0, 90.0])) @ [1, 0, 0], [0, 1, 0], atol=1e-12)


def test_the_coil_is_smooth_and_near_one(centres: head.FloatArray) -> None:
    coil = mri.sensitivity(centres, 0.2, np.random.default_rng(0))
    assert np.exp(-0.2) <= coil.min() and coil.max() <= np.exp(0.2) and np.ptp(coil) > 0.1
    assert max(np.abs(np.diff(coil, axis=k)).max() for k in range(3)) < 0.03


def test_a_scan_follows_its_tissues(heads: list[tuple[str, head.Anatomy, head.FloatArray]]) -> None:
    scanner = mri.SCANNERS[0]
    fractions = heads[0][2]
    volume = mri.scan(fractions, "T2w", np.ones(fractions.shape[1:]), scanner, np.random.default_rng(0))
    strongest = head.contrast_signals("T2w").max()
    for name in ("white", "grey", "ventricle", "muscle"):
        pure = volume[tissue_at(fractions, name) > 0.99]
        want = scanner.full * head.contrast_signals("T2w")[NAMES.index(name)] / strongest
        assert len(pure) > 20 and pure.mean() == pytest.approx(want, rel=0.03)
    air = volume[tissue_at(fractions, "air") > 1 - 1e-9]
    assert air.mean() == pytest.approx(scanner.full * scanner.noise * np.sqrt(np.pi / 2), rel=0.02)  # Rayleigh


def test_as_many_with_lesions_as_without() -> None:
    found = [mri.draw_session(index, seed)[0] for seed in range(3) for index in range(12)]
    assert found.count("lesion") == found.count("healthy") == 18
    assert len({tuple(found[:12]), tuple(found[12:24]), tuple(found[24:])}) > 1


def test_nobody_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        mri.generate(tmp_path / "demo", subjects=0)
    assert not (tmp_path / "demo").exists()


def test_generated_volumes_read_back_with_nibabel(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    labels = mri.generate(tmp_path / "a", subjects=3)
    mri.generate(tmp_path / "b", subjects=1)
    rows = list(csv.DictReader(labels.open(encoding="utf-8")))
    assert list(rows[0]) == ["path", "label", "subject", "age", "ventricle_ml"] and len(rows) == 3
    assert {r["label"] for r in rows} <= set(mri.LABELS) and all(20 <= float(r["age"]) <= 85 for r in rows)
    for row, scanner in zip(rows, mri.SCANNERS, strict=True):
        name = row["subject"]
        for contrast in mri.CONTRASTS:
            path = labels.parent / name / "anat" / f"{name}_{contrast}.nii.gz"
            image = nibabel.load(path)
            assert image.get_data_dtype() == scanner.dtype and "".join(nibabel.aff2axcodes(image.affine)) == scanner.axes
            assert sorted(image.shape) == sorted(mri.SHAPE) and image.header.get_slope_inter() in ((None, None), (1.0, 0.0))
            np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-4)
            assert image.header["qform_code"] == image.header["sform_code"] == 1
            values = np.asanyarray(image.dataobj)
            assert 0.5 * scanner.full < values.max() <= np.iinfo(scanner.dtype).max
            assert (values == values.max()).mean() < 1e-3  # nothing is clipped flat
        assert (labels.parent / row["path"]).is_file()
    for path in (tmp_path / "b").rglob("*.nii.gz"):  # more subjects leave the first as it is
        assert path.read_bytes() == (tmp_path / "a" / path.relative_to(tmp_path / "b")).read_bytes()
