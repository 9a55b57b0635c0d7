"""MRI features of made volumes whose size, intensities and symmetry are known by construction."""

import numpy as np
import pytest
from numpy.typing import NDArray

from readers.schema import Box, Channel, VolumeSample
from toolkit.probing.features_mri import CONTRAST_NAMES, MRI_NAMES, _otsu, mri_features

RNG = np.random.default_rng(7)
RADII_MM = np.array([40.0, 50.0, 30.0])


def _sample(*contrasts: NDArray, spacing_mm: float = 2.0, valid: NDArray | None = None, missing: int = 0) -> VolumeSample:
    values = np.stack(contrasts).astype(np.float32)
    valid = np.ones(values.shape, bool) if valid is None else np.broadcast_to(valid, values.shape)
    channels = tuple(
        Channel(f"c{i}", f"c{i}", "T1w", None, None, None, missing=i >= len(values) - missing) for i in range(len(values))
    )
    box = Box((0, 0, 0), (values.shape[1], values.shape[2], values.shape[3]))
    return VolumeSample(np.where(valid, values, 0), valid, channels, box, np.diag([spacing_mm] * 3 + [1.0]))


def _found(*contrasts: NDArray, **more: object) -> dict[str, float]:
    vector, names = mri_features(_sample(*contrasts, **more))  # type: ignore[arg-type]
    assert vector.dtype == np.float32 and vector.shape == (len(names),) and len(set(names)) == len(names)
    assert names == MRI_NAMES and np.isfinite(vector).all()
    return dict(zip(names, vector.tolist(), strict=True))


def _grid(spacing_mm: float) -> NDArray:
    """Places in mm from the centre of a field of view of 128 mm, (3, X, Y, Z)."""
    places = (np.arange(round(128 / spacing_mm)) + 0.5) * spacing_mm - 64
    return np.stack(np.meshgrid(places, places, places, indexing="ij"))


def _head(spacing_mm: float = 2.0, noise: float = 0.0) -> NDArray:
    """An ellipsoid of 100 with a bright core of 150, in a background of 5."""
    reach = np.linalg.norm(_grid(spacing_mm) / RADII_MM[:, None, None, None], axis=0)
    head = np.select([reach < 0.4, reach < 1], [150.0, 100.0], 5.0)
    return head + noise * RNG.normal(size=head.shape)


@pytest.mark.parametrize("spacing_mm", [1.0, 2.0, 2.5])
def test_an_ellipsoid_has_its_size_at_any_spacing(spacing_mm: float) -> None:
    found = _found(_head(spacing_mm), spacing_mm=spacing_mm)
    volume_ml = 4 / 3 * np.pi * RADII_MM.prod() / 1000
    assert found["foreground_ml_log"] == pytest.approx(np.log(volume_ml), abs=0.03)
    assert found["foreground_share"] == pytest.approx(volume_ml / 128**3 * 1000, rel=0.04)
    for axis, radius in zip("xyz", RADII_MM, strict=True):
        lost = 0.9 if radius < 35 else 0.92  # the box leaves 0.5 % of the voxels outside on either side
        assert lost < np.exp(found[f"extent_{axis}_mm_log"]) / (2 * radius) < 1.03
    assert found["intensity_p25"] == pytest.approx(1, abs=0.01)
    assert found["intensity_p99"] == pytest.approx(1.5, abs=0.01)
    assert found["share_000"] < 0.15 < 0.95 < found["share_111"] and found["mean_111"] > 1.05 > found["mean_010"]


def test_neither_gain_nor_sign_of_the_background_matters() -> None:
    head = _head(noise=3)
    plain = _found(head)
    assert _found(head * 37) == pytest.approx(plain, abs=1e-3)
    shifted = _found(head - head.mean())
    assert shifted["foreground_ml_log"] == pytest.approx(plain["foreground_ml_log"], abs=0.01)


def test_a_histogram_and_percentiles_are_those_of_the_foreground() -> None:
    head = np.where(_head() > 50, RNG.normal(200, 20, (64, 64, 64)), 0)
    found = _found(head)
    inside = head[head > 50] / np.median(head[head > 50])
    shares = np.histogram(inside, 16, (0, 2.5))[0] / inside.size
    assert [found[f"histogram_{i}"] for i in range(16)] == pytest.approx(shares.tolist(), abs=0.01)
    for q in (5, 90):
        assert found[f"intensity_p{q}"] == pytest.approx(np.percentile(inside, q), abs=0.01)
    assert found["intensity_std"] == pytest.approx(0.1, abs=0.005) and found["intensity_skew"] == pytest.approx(0, abs=0.1)


def test_the_gradient_of_a_ramp_is_its_slope_per_mm() -> None:
    x, y, _ = _grid(2.0)
    ramp = np.where(_head() > 50, 1000 + 3 * x + 4 * y, 0)
    found = _found(ramp)
    assert found["gradient_mean"] == pytest.approx(5 / 1000, rel=0.01)
    assert found["gradient_std"] < 1e-4 and found["gradient_p90"] == pytest.approx(5 / 1000, rel=0.01)


def test_a_lesion_on_one_side_is_asymmetric_and_a_mirror_image_swaps_the_grid() -> None:
    head = _head()
    lesion = head.copy()
    lesion[16:26, 30:40, 26:38] = 40
    whole, hurt, mirrored = _found(head), _found(lesion), _found(lesion[::-1])
    assert whole["asymmetry_intensity"] < 1e-6 and whole["asymmetry_grid"] < 1e-5
    assert hurt["asymmetry_grid"] > 0.005 or hurt["asymmetry_share"] > 0.005
    assert mirrored["asymmetry_share"] == pytest.approx(hurt["asymmetry_share"], abs=1e-5)
    for name in ("mean", "share"):
        assert mirrored[f"{name}_312"] == pytest.approx(hurt[f"{name}_012"], abs=1e-5)


def test_contrasts_are_averaged_and_missing_ones_passed_over() -> None:
    one, other = _head(noise=3), 250 - _head(noise=3)
    alone, both = _found(one), _found(one, other)
    assert both["contrasts"] == 2 and alone["contrasts"] == 1
    second = _found(other)
    for name in CONTRAST_NAMES:
        assert both[name] == pytest.approx((alone[name] + second[name]) / 2, abs=1e-4)
    assert _found(one, np.zeros_like(one)) == alone == _found(one, other, missing=1)


def test_what_is_not_valid_does_not_count() -> None:
    head = _head(noise=3)
    valid = np.ones(head.shape, bool)
    valid[:, :, 40:] = False
    cut = _found(head[:, :, :40])
    garbage = head.copy()
    garbage[:, :, 40:] = 1e6
    assert _found(garbage, valid=valid) == pytest.approx(cut, abs=1e-4)


def test_the_threshold_is_the_one_that_parts_two_classes_best() -> None:
    values = np.concatenate([RNG.normal(10, 3, 3000), RNG.normal(60, 10, 2000)]).astype(np.float32)

    def within(threshold: float) -> float:
        parts = values[values <= threshold], values[values > threshold]
        return float(sum(part.size * part.var() for part in parts))

    best = min(within(float(threshold)) for threshold in np.linspace(5, 80, 300))
    assert within(_otsu(values)) < 1.01 * best


@pytest.mark.parametrize("shape", [(40, 40, 2), (3, 50, 50), (9, 9, 9), (200, 150, 4)])
@pytest.mark.parametrize("spacing_mm", [0.5, 2.0, 6.0])
def test_thin_and_small_boxes_are_finite(shape: tuple[int, int, int], spacing_mm: float) -> None:
    values = RNG.gamma(2, 50, shape)
    vector, names = mri_features(_sample(values, spacing_mm=spacing_mm))
    voxels = np.prod(np.maximum(np.array(shape) // max(1, round(2 / spacing_mm)), 1))
    assert names == MRI_NAMES and (np.isfinite(vector).all() or voxels < 300)


@pytest.mark.parametrize("kind", ["constant", "invalid"])
def test_a_box_without_foreground_gives_gaps_of_the_same_length(kind: str) -> None:
    values = np.full((20, 20, 20), 7.0)
    vector, names = mri_features(_sample(values, valid=np.full((20, 20, 20), kind == "constant")))
    assert names == MRI_NAMES and vector.shape == (len(names),) and np.isnan(vector).all()
