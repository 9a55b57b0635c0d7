"""A synthetic head: what tissue lies where, and what signal a magnetic resonance scanner gets from it.

Head coordinates in mm: x to the right, y to the nose, z to the vertex, the origin between the ears at the height of
the thalamus. Tissues are fractions of a voxel, so that boundaries are smooth as partial volumes make them.
Times are in ms.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Tissue:
    """Relaxation at 1.5 T: T1, T2 and T2* in ms; ``protons``: spin density relative to water."""

    t1: float
    t2: float
    t2_star: float
    protons: float


# The values of the BrainWeb phantom (Collins, Zijdenbos, Kollokian et al, IEEE Trans Med Imaging 17:463, 1998;
# Kwan, Evans and Pike, IEEE Trans Med Imaging 18:1085, 1999). Deep nuclei, which hold iron, lie between grey and
# white; the fluid in the ventricles has a name of its own; bone's marrow gives the skull a little signal.
TISSUES = {
    "air": Tissue(1000.0, 1.0, 1.0, 0.0),
    "skin": Tissue(900.0, 47.0, 30.0, 0.9),
    "fat": Tissue(350.0, 70.0, 58.0, 1.0),
    "muscle": Tissue(900.0, 47.0, 30.0, 1.0),
    "skull": Tissue(400.0, 50.0, 15.0, 0.10),
    "csf": Tissue(2569.0, 329.0, 58.0, 1.0),
    "ventricle": Tissue(2569.0, 329.0, 58.0, 1.0),
    "grey": Tissue(833.0, 83.0, 69.0, 0.86),
    "white": Tissue(500.0, 70.0, 61.0, 0.77),
    "nuclei": Tissue(680.0, 74.0, 58.0, 0.82),
    "lesion": Tissue(752.0, 237.0, 204.0, 0.76),
}
NAMES = tuple(TISSUES)
HEAD_CENTRE = np.array([0.0, -6.0, 4.0])


@dataclass(frozen=True)
class Waves:
    """A smooth random field over space: a sum of plane waves (K, 3) in rad/mm, with phases (K,) and amplitudes (K,)."""

    vectors: FloatArray
    phases: FloatArray
    amplitudes: FloatArray

    def at(self, places: FloatArray) -> FloatArray:
        """Values (...) at places (..., 3) in mm."""
        total = np.zeros(places.shape[:-1])
        for vector, phase, amplitude in zip(self.vectors, self.phases, self.amplitudes, strict=True):
            total += amplitude * np.cos(places @ vector + phase)
        return total


def draw_waves(rng: np.random.Generator, count: int, shortest: float, longest: float, deviation: float) -> Waves:
    """A field of that standard deviation, its wavelengths in mm between ``shortest`` and ``longest``."""
    facing = rng.normal(size=(count, 3))
    facing /= np.linalg.norm(facing, axis=1, keepdims=True)
    vectors = facing * (2 * np.pi / rng.uniform(shortest, longest, (count, 1)))
    return Waves(vectors, rng.uniform(0, 2 * np.pi, count), np.full(count, deviation * np.sqrt(2 / count)))


@dataclass(frozen=True)
class Anatomy:
    """One person's head."""

    age: float  # years
    size: FloatArray  # (3,) half axes of the head in mm
    bending: tuple[Waves, Waves, Waves]  # mm, how x, y and z are displaced
    folds: Waves  # mm, where the cortex sinks in
    ripples: Waves  # mm, the same in the cerebellum
    cortex: float  # mm
    ventricles: float  # factor on the ventricles' half axes
    sulci: float  # mm by which the brain has shrunk from the skull
    lesions: tuple[tuple[FloatArray, FloatArray], ...] = field(default=())  # centre and half axes (3,) in mm


def draw_lesions(rng: np.random.Generator, count: int, ventricles: float) -> tuple[tuple[FloatArray, FloatArray], ...]:
    """White-matter lesions beside and above the ventricles, mostly long towards them, half axes 2 to 9 mm."""
    found = []
    for _ in range(count):
        side = rng.choice((-1.0, 1.0))
        centre = np.array([side * rng.uniform(17, 28) * ventricles**0.5, rng.uniform(-38, 34), rng.uniform(8, 32)])
        found.append((centre, rng.uniform(3.5, 6.5) * np.array([1.3, rng.uniform(0.7, 1.2), rng.uniform(0.7, 1.1)])))
    return tuple(found)


def draw_anatomy(rng: np.random.Generator, lesions: bool) -> Anatomy:
    """A person of 20 to 85 years, with or without white-matter lesions; age widens the ventricles and thins the cortex."""
    age = rng.uniform(20, 85)
    elderly = (age - 20) / 65
    ventricles = 0.75 + 0.55 * elderly**1.5 + rng.normal(0, 0.06)
    return Anatomy(
        age=float(age),
        size=np.array([76.0, 97.0, 92.0]) * rng.normal(1, 0.03) * rng.normal(1, 0.02, 3),
        bending=(draw_waves(rng, 4, 90, 200, 2.0), draw_waves(rng, 4, 90, 200, 2.0), draw_waves(rng, 4, 90, 200, 2.0)),
        folds=draw_waves(rng, 32, 22, 36, 1.0),
        ripples=draw_waves(rng, 12, 9, 12, 1.0),
        cortex=4.2 - 0.9 * elderly + rng.normal(0, 0.1),
        ventricles=float(np.clip(ventricles, 0.6, 1.6)),
        sulci=1.0 + 2.2 * elderly + rng.normal(0, 0.2),
        lesions=draw_lesions(rng, int(rng.integers(10, 22)), float(ventricles)) if lesions else (),
    )


def ellipsoid(places: FloatArray, centre: FloatArray, half: FloatArray) -> FloatArray:
    """About the distance in mm by which places (..., 3) lie inside an ellipsoid; negative outside, 0 on its surface.

    First-order: (1 - |u|) |u| / |grad|, with u the place in units of the half axes.
    """
    scaled = (places - centre) / half
    norm = np.sqrt(np.einsum("...i,...i", scaled, scaled))
    gradient = np.sqrt(np.einsum("...i,...i,i", scaled, scaled, half**-2.0))
    return np.asarray((1 - norm) * np.maximum(norm, 1e-9) / np.maximum(gradient, 1e-9))


def inside(depth: FloatArray, width: float) -> FloatArray:
    """The fraction of a voxel that is inside, from the depth of its centre in mm: a smooth step of ``width`` mm."""
    return np.asarray(0.5 * (1 + np.tanh(2 * depth / width)))


class Mixture:
    """Fractions of every tissue (T, ...) in ``NAMES`` order; they sum to 1. Starts as air."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.fractions = np.zeros((len(NAMES), *shape))
        self.fractions[NAMES.index("air")] = 1

    def put(self, tissue: str, share: FloatArray) -> None:
        """Replace ``share`` of whatever is there by a tissue."""
        self.fractions *= 1 - share
        self.fractions[NAMES.index(tissue)] += share

    def turn(self, tissue: str, into: str, share: FloatArray) -> None:
        """Turn ``share`` of one tissue into another and leave the rest."""
        changed = share * self.fractions[NAMES.index(tissue)]
        self.fractions[NAMES.index(tissue)] -= changed
        self.fractions[NAMES.index(into)] += changed


def mirrored(places: FloatArray) -> FloatArray:
    """Places with both halves of the head taken to x >= 0."""
    return np.concatenate((np.abs(places[..., :1]), places[..., 1:]), axis=-1)


def tissues(places: FloatArray, anatomy: Anatomy, width: float = 3.0) -> FloatArray:
    """Fractions (T, ...) of the tissues of ``NAMES`` at places (..., 3) in mm; ``width``: of a boundary, about a voxel."""
    bent = places + np.stack([waves.at(places) for waves in anatomy.bending], axis=-1)
    surface = _surface(bent, anatomy)
    near = surface > -3 * width  # the rest, more than half of a scan, is air
    mixture = Mixture((int(near.sum()),))
    _shell(mixture, bent[near], surface[near], anatomy, width)
    _brain(mixture, bent[near], anatomy, width)
    _cerebellum(mixture, bent[near], anatomy, width)
    _inner(mixture, bent[near], anatomy, width)
    fractions = Mixture(places.shape[:-1]).fractions
    fractions[:, near] = mixture.fractions
    return fractions


def _surface(places: FloatArray, anatomy: Anatomy) -> FloatArray:
    """Depth in mm under the skin of head, face and neck; negative outside."""
    head = ellipsoid(places, HEAD_CENTRE, anatomy.size)
    face = ellipsoid(places, np.array([0.0, 42.0, -42.0]), np.array([50.0, 52.0, 62.0]))
    x, y, z = np.moveaxis(places, -1, 0)
    neck = np.minimum(52 - np.hypot(x, 0.9 * (y + 22)), -z - 20)
    return np.asarray(np.maximum(np.maximum(head, face), neck))


def _shell(mixture: Mixture, places: FloatArray, surface: FloatArray, anatomy: Anatomy, width: float) -> None:
    """Skin, fat, muscle, skull and the fluid in it, airways and eyes."""
    head = ellipsoid(places, HEAD_CENTRE, anatomy.size)
    mixture.put("skin", inside(surface, width))
    mixture.put("fat", inside(surface - 2.5, width))
    mixture.put("muscle", inside(surface - 6.5, width) * inside(-places[..., 2] - 12, 12.0))
    room = np.maximum(_floor(places), _cerebellar(places))  # where the brain lies above the base of the skull
    mixture.put("skull", inside(np.minimum(head - 6.5, room + 7.0), width))
    mixture.put("csf", inside(np.minimum(head - 12.0, room + 2.5), width))
    airway = ellipsoid(places, np.array([0.0, 62.0, -42.0]), np.array([13.0, 26.0, 18.0]))
    mixture.put("air", inside(airway, width))
    eye = ellipsoid(mirrored(places), np.array([31.0, 70.0, -28.0]), np.full(3, 12.5))
    mixture.put("fat", inside(eye + 5.0, width))
    mixture.put("csf", inside(eye, width))


def _floor(places: FloatArray) -> FloatArray:
    """Height in mm above the lower face of the hemispheres, which reaches lowest at the temporal lobes."""
    x, y, z = np.moveaxis(places, -1, 0)
    return np.asarray(z + 13 + 24 * np.exp(-(((np.abs(x) - 40) / 19) ** 2) - ((y - 2) / 30) ** 2))


def _cerebellar(places: FloatArray) -> FloatArray:
    """Depth in mm inside the cerebellum."""
    return ellipsoid(mirrored(places), np.array([20.0, -56.0, -36.0]), np.array([32.0, 26.0, 20.0]))


def _brain(mixture: Mixture, places: FloatArray, anatomy: Anatomy, width: float) -> None:
    """The hemispheres: folded grey matter around white, with fluid in the sulci and in the fissure between them.

    Sulci run along the zeros of a random field; grey matter follows them far inwards, fluid less far.
    """
    cerebrum = ellipsoid(places, HEAD_CENTRE, anatomy.size - 12.5) - 0.5 * anatomy.sulci
    cerebrum = np.minimum(cerebrum, _floor(places))
    fold = np.abs(anatomy.folds.at(places))
    x, _, z = np.moveaxis(places, -1, 0)
    callosum = ellipsoid(places, np.array([0.0, -4.0, 16.0]), np.array([30.0, 40.0, 13.0]))
    fissure = np.maximum(np.abs(x) - 0.3 - 0.3 * anatomy.sulci, np.maximum(callosum, 8 - z))
    depth = np.minimum(cerebrum, np.maximum(np.abs(x), callosum + anatomy.cortex + 1))
    gap = (2.5 + 2.5 * anatomy.sulci) * np.clip(1 - fold / 0.22, 0, 1)
    mixture.put("grey", inside(np.minimum(cerebrum - gap, fissure), width))
    mixture.put("white", inside(depth - anatomy.cortex - 20.0 * np.clip(1 - fold / 0.9, 0, 1), width))


def _cerebellum(mixture: Mixture, places: FloatArray, anatomy: Anatomy, width: float) -> None:
    """Cerebellum and brain stem."""
    body = _cerebellar(places)
    mixture.put("grey", inside(body, width))
    mixture.put("white", inside(body - 7.0 - 3.0 * anatomy.ripples.at(places), width))
    x, y, z = np.moveaxis(places, -1, 0)
    stem = np.minimum(11.0 - np.hypot(x, y + 22 - 0.25 * (z + 30)), -6 - z)
    pons = ellipsoid(places, np.array([0.0, -18.0, -30.0]), np.array([16.0, 13.0, 14.0]))
    mixture.put("csf", inside(np.maximum(stem, pons) + 3.0, width) * inside(-z - 16, 8.0))
    mixture.put("white", inside(np.maximum(stem, pons), width))


def _inner(mixture: Mixture, places: FloatArray, anatomy: Anatomy, width: float) -> None:
    """Deep nuclei, ventricles and lesions."""
    one_side, v = mirrored(places), anatomy.ventricles
    x, y, z = np.moveaxis(one_side, -1, 0)
    thalamus = ellipsoid(one_side, np.array([12.0, -14.0, 4.0]), np.array([9.0, 15.0, 9.0]))
    putamen = ellipsoid(one_side, np.array([26.0, 6.0, 2.0]), np.array([6.0, 17.0, 10.0]))
    caudate = ellipsoid(one_side, np.array([14.0, 18.0, 11.0]), np.array([5.5, 12.0, 9.0]))
    for nucleus in (thalamus, putamen, caudate):
        mixture.put("nuclei", inside(nucleus, width))
    bowed = np.stack((x - (y - 2) ** 2 / 160, y, z + (y + 5) ** 2 / 110), axis=-1)  # outwards and down at both ends
    body = ellipsoid(bowed, np.array([6.5 + 3 * v, -6.0, 17.0]), np.array([5.5 * v, 34.0 * v**0.4, 7.0 * v]))
    horn = ellipsoid(one_side, np.array([22.0, -42.0, 4.0]), np.array([5.5 * v, 15.0 * v**0.4, 7.0 * v]))
    third = ellipsoid(places, np.array([0.0, -8.0, 2.0]), np.array([2.6 * v, 14.0, 11.0]))
    fourth = ellipsoid(places, np.array([0.0, -35.0, -32.0]), np.array([6.0, 5.0 * v, 8.0]))
    for cavity in (body, horn, third, fourth):
        mixture.put("ventricle", inside(cavity, width))
    for centre, half in anatomy.lesions:
        mixture.turn("white", "lesion", inside(ellipsoid(places, centre, half), width))


def spin_echo(tissue: Tissue, repetition: float, echo: float) -> float:
    """Signal of a spin echo after a 90 degree pulse, in units of water's spin density; times in ms.

    protons (1 - 2 exp(-(TR - TE / 2) / T1) + exp(-TR / T1)) exp(-TE / T2): the steady state of the Bloch
    equations when the transverse magnetisation is gone by the next pulse.
    """
    recovery = 1 - 2 * np.exp(-(repetition - echo / 2) / tissue.t1) + np.exp(-repetition / tissue.t1)
    return float(tissue.protons * recovery * np.exp(-echo / tissue.t2))


def spoiled_echo(tissue: Tissue, repetition: float, echo: float, flip: float) -> float:
    """Signal of a spoiled gradient echo (Ernst and Anderson 1966), with the flip angle in degrees and times in ms.

    protons sin(a) (1 - E1) / (1 - E1 cos(a)) exp(-TE / T2*), E1 = exp(-TR / T1).
    """
    angle, left = np.deg2rad(flip), np.exp(-repetition / tissue.t1)
    steady = np.sin(angle) * (1 - left) / (1 - left * np.cos(angle))
    return float(tissue.protons * steady * np.exp(-echo / tissue.t2_star))


def contrast_signals(contrast: str) -> FloatArray:
    """Signal (T,) of every tissue of ``NAMES`` in a contrast: T1w (TR 18, TE 10, 30 degrees), T2w (3300, 100), PDw (3300, 25)."""
    if contrast == "T1w":
        return np.array([spoiled_echo(tissue, 18.0, 10.0, 30.0) for tissue in TISSUES.values()])
    echo = {"T2w": 100.0, "PDw": 25.0}[contrast]
    return np.array([spin_echo(tissue, 3300.0, echo) for tissue in TISSUES.values()])


def rician(signal: FloatArray, deviation: float, rng: np.random.Generator) -> FloatArray:
    """The magnitude of a signal with Gaussian noise in both receiver channels: Rician, Rayleigh where there is none."""
    return np.asarray(np.hypot(signal + rng.normal(0, deviation, signal.shape), rng.normal(0, deviation, signal.shape)))
