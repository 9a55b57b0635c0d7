"""Potentials that current dipoles cause on a spherical head, and where the electrodes of the 10-20 system lie on it.

Head coordinates: x to the right ear, y to the nose, z to the vertex, origin at the centre of the sphere, metres.
Dipole moments are in A m, conductivities in S/m and potentials in volts, against a reference at infinity.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Layers = Sequence[tuple[float, float]]

RADIUS_M = 0.09
CONDUCTIVITY = 0.33  # S/m, brain and scalp
# Brain, cerebrospinal fluid, skull, scalp: outer radius as a fraction of the head's, and conductivity. The
# values with which Berg and Scherg (Electroencephalogr Clin Neurophysiol 90:58, 1994) describe a head.
LAYERS: Layers = ((0.90, 0.33), (0.92, 1.0), (0.97, 0.004), (1.0, 0.33))
ORDERS = 120  # of the series; its terms fall as (dipole radius / head radius) ** n

ELECTRODES = ("Fp1", "Fp2", "F7", "F3", "Fz", "F4", "F8", "T7", "C3", "Cz", "C4", "T8", "P7", "P3", "Pz", "P4", "P8", "O1", "O2")
# Degrees clockwise from the nose of the ring that runs at 72 degrees from the vertex.
RING = {"Fp1": -18, "F7": -54, "T7": -90, "P7": -126, "O1": -162, "Fp2": 18, "F8": 54, "T8": 90, "P8": 126, "O2": 162}
MIDLINE = {"Fz": 36, "Cz": 0, "Pz": -36}  # degrees from the vertex towards the nose
BETWEEN = {"F3": ("F7", "Fz"), "F4": ("F8", "Fz"), "C3": ("T7", "Cz"), "C4": ("T8", "Cz"), "P3": ("P7", "Pz"), "P4": ("P8", "Pz")}


def direction(inclination: float, azimuth: float) -> FloatArray:
    """Unit vector (3,) at degrees from the vertex and degrees from the nose towards the right ear."""
    theta, phi = np.deg2rad((inclination, azimuth))
    return np.array([np.sin(theta) * np.sin(phi), np.sin(theta) * np.cos(phi), np.cos(theta)])


def electrode_positions(radius: float = RADIUS_M) -> FloatArray:
    """Positions (19, 3) in m of ``ELECTRODES`` on the sphere: distances of 10 and 20 % of its arcs (Jasper 1958)."""
    found = {name: direction(72, azimuth) for name, azimuth in RING.items()}
    found |= {name: direction(angle, 0) for name, angle in MIDLINE.items()}
    for name, (outer, inner) in BETWEEN.items():
        middle = found[outer] + found[inner]
        found[name] = middle / np.linalg.norm(middle)
    return radius * np.array([found[name] for name in ELECTRODES])


def homogeneous_potential(
    electrodes: FloatArray, places: FloatArray, moments: FloatArray, radius: float = RADIUS_M, conductivity: float = CONDUCTIVITY
) -> FloatArray:
    """Potentials (E, N) of dipoles (N, 3) in a homogeneous sphere with nothing that conducts around it.

    Closed form: the derivative along the moment of the sphere's Neumann function, which for a point on the
    surface at distance d is (2 / d + ln(2 R^2 / (R^2 - r r0 + R d)) / R) / (4 pi sigma); for dipoles see Brody,
    Terry and Ideker, IEEE Trans Biomed Eng 20:141, 1973. ``electrodes`` (E, 3) lie on the surface.
    """
    r, r0, q = electrodes[:, None], places[None], moments[None]
    step = r - r0
    d = np.linalg.norm(step, axis=-1, keepdims=True)
    below = radius**2 - (r * r0).sum(-1, keepdims=True) + radius * d
    field = 2 * step / d**3 + (r / radius + step / d) / below
    return np.asarray((field * q).sum(-1) / (4 * np.pi * conductivity))


def layer_gains(orders: int = ORDERS, layers: Layers = LAYERS) -> FloatArray:
    """Gain (orders,) of the multipoles 1, 2, ... of a source in the innermost layer, on the outer surface.

    It is the surface potential over what the same multipole gives in unbounded brain; (2 n + 1) / n for a
    homogeneous sphere. Found from outside, where no current leaves, inwards: the potential and the radial
    current are continuous at every boundary.
    """
    n = np.arange(1, orders + 1, dtype=np.float64)
    value, slope = np.ones(orders), np.zeros(orders)  # the potential, and r times its derivative
    for k in range(len(layers) - 1, -1, -1):
        outer, conductivity = layers[k]
        growing, falling = ((n + 1) * value + slope) / (2 * n + 1), (n * value - slope) / (2 * n + 1)
        if k == 0:
            return 1 / (falling * outer ** (n + 1))
        inner, beneath = layers[k - 1]
        growing, falling = growing * (inner / outer) ** n, falling * (outer / inner) ** (n + 1)
        value, slope = growing + falling, (n * growing - (n + 1) * falling) * conductivity / beneath
    raise ValueError("a head needs at least one layer")


def layered_potential(
    electrodes: FloatArray, places: FloatArray, moments: FloatArray, radius: float = RADIUS_M, layers: Layers = LAYERS
) -> FloatArray:
    """Potentials (E, N) of dipoles (N, 3) inside the brain of a layered sphere, by its series of Legendre functions.

    ``electrodes`` (E, 3) lie on the surface. The gradient of r0^n P_n at the dipole, along its moment, times
    ``layer_gains``. Raises ValueError for a dipole outside the innermost layer or closer than 1 um to the centre.
    """
    depth = np.linalg.norm(places, axis=-1)
    if np.any(depth >= layers[0][0] * radius) or np.any(depth < 1e-6):
        raise ValueError(f"dipoles must lie 1e-6 to {layers[0][0] * radius:g} m from the centre")
    towards, inside = electrodes / radius, places / depth[:, None]
    cosine = towards @ inside.T  # (E, N)
    radial = (moments * inside).sum(-1)
    tangential = towards @ moments.T - cosine * radial
    ratio = depth / radius
    before, legendre = np.ones_like(cosine), cosine.copy()  # P_0, P_1
    slope_before, slope = np.zeros_like(cosine), np.ones_like(cosine)  # their derivatives
    total = np.zeros_like(cosine)
    for n, gain in enumerate(layer_gains(ORDERS, layers), start=1):
        total += gain * ratio ** (n - 1) * (n * legendre * radial + slope * tangential)
        slope_before, slope = slope, slope_before + (2 * n + 1) * legendre
        before, legendre = legendre, ((2 * n + 1) * cosine * legendre - n * before) / (n + 1)
    return np.asarray(total / (4 * np.pi * layers[0][1] * radius**2))
