"""How far a model's detail is to be believed: repairs of visible boxes, which were not damaged, compared with their truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from readers.schema import BoolArray
from toolkit.restoration import boxes, voxels
from toolkit.restoration.boxes import TRIES, Damaged, Hole, brought
from toolkit.restoration.cubes import CubePredictor
from toolkit.restoration.mender import generator

CONTROLS = 6  # boxes tried in each contrast


def weights(
    predictor: CubePredictor,
    seen: Damaged,
    channels: Sequence[int],
    holes: Sequence[Hole],
    masks: Mapping[int, BoolArray],
    levels: voxels.Levels,
) -> dict[int, float]:
    """For each damaged contrast the weight, 0 to 1, of what the model adds to a harmonic fill.

    Boxes like the damaged ones are hidden in visible places of the head, repaired, and the weight that would have served
    them best (least squares) is taken; 1 where there is no such place, or nothing of a contrast is visible.
    """
    head = predictor.head(seen)
    controls = [
        control
        for c in sorted(masks)
        if levels[c] is not None
        for control in _controls(masks[c], [h for h in holes if h.channel == c], brought(seen, c, head.start, head.stop, "head"))
    ]
    found = dict.fromkeys(masks, 1.0)
    if not controls:
        return found
    hidden = Damaged(seen, controls)
    fields = predictor.predict(hidden, channels, [*holes, *controls])
    wanted, square = dict.fromkeys(masks, 0.0), dict.fromkeys(masks, 0.0)
    for c in sorted({control.channel for control in controls}):
        mask = np.zeros(seen.shape_of(c), bool)
        for control in (control for control in controls if control.channel == c):
            mask[control.slices] = True
        for part in voxels.join(hidden, c, mask, fields[c], levels[c], 1.0):
            truth = seen.stored_values(c, part.start, part.stop)[part.hole]
            known = np.isfinite(truth)
            wanted[c] += float((part.detail * (truth - part.smooth))[known].sum())
            square[c] += float((part.detail**2)[known].sum())
    return found | {c: float(np.clip(wanted[c] / square[c], 0.0, 1.0)) for c in masks if square[c] > 0}


def _controls(mask: BoolArray, holes: Sequence[Hole], head: Hole) -> list[Hole]:
    """Boxes of the sizes of the largest holes in the head, apart from all that is damaged and from one another."""
    rng = generator(0, 0)
    taken = mask.copy()
    extent = np.array(head.stop) - head.start
    found = []
    for hole in sorted(holes, key=boxes.size_of, reverse=True)[:CONTROLS]:
        shape = np.minimum(np.array(hole.stop) - hole.start, np.maximum(extent // 2, 1))
        for _ in range(TRIES):
            start: NDArray[np.int64] = rng.integers(head.start, np.array(head.stop) - shape + 1)
            near = tuple(slice(max(a - 1, 0), a + n + 1) for a, n in zip(start, shape, strict=True))
            if not taken[near].any():
                taken[tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))] = True
                found.append(boxes.hole_at(hole.channel, start, start + shape, "control"))
                break
    return found
