"""Everything of one training step that targets are made of."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from toolkit.model.look import Look
from toolkit.model.states import States
from toolkit.model.tokenizers.points import EXACT
from toolkit.model.tokens import TokenSet
from toolkit.objective.beams import Sample
from toolkit.objective.boxes import boxes_of
from toolkit.objective.image_teacher import Guidance
from toolkit.objective.scale import visible_scale
from toolkit.objective.teacher import Teacher


@dataclass
class Scene:
    """``views``: the tokens of each pass in the data's own scale, one row a sample; ``looks``: the passes carried out, with
    ``repeats`` rows a sample, in the scale of what is visible, of which ``factors`` (B, N, 1) are the units;
    ``samples``: what the views are of, one a pass; ``subjects`` int64 (B,)."""

    samples: list[Sample]
    views: list[TokenSet]
    looks: list[Look]
    factors: list[Tensor]
    repeats: list[int]
    subjects: Tensor
    teacher: Teacher | None
    guidance: list[Guidance] = field(default_factory=list)
    _taught: dict[tuple[int, bool], States] = field(default_factory=dict)

    def taught(self, number: int, *, hidden_only: bool = False) -> States:
        """The teacher's states of a pass: of all tokens of the view, in the unit of all; or of those hidden there, in order."""
        key = (number, hidden_only)
        if key not in self._taught:
            assert self.teacher is not None
            look = self.looks[number]
            if hidden_only:
                self._taught[key] = self.teacher.states(look.tokens, look.hidden)
            else:
                view = self.views[number]
                everything = torch.arange(view.valid.shape[1], device=view.valid.device).expand(view.valid.shape)
                seen = replace(view, patches=view.patches / visible_scale(view, everything)[..., None])
                self._taught[key] = repeated_states(self.teacher.states(seen), self.repeats[number])
        return self._taught[key]

    def boxes(self, number: int, places: Tensor) -> tuple[Tensor, Tensor]:
        """The boxes in which ``places`` (B, q, 3) of a pass lie, as seen from there (B, q, 8), and which lie in one (B, q)."""
        sample, times, device = self.samples[number], self.repeats[number], places.device
        boxes = boxes_of(sample.whole).moved(sample.turn, sample.scale).repeated(times).to(device)
        points, valid = (each.to(device).repeat_interleave(times, dim=0) for each in sample.points())
        apart = torch.cdist(places, points, compute_mode=EXACT).masked_fill(~valid[:, None], torch.inf)
        box = boxes.of.gather(1, apart.argmin(-1))
        return boxes.seen_from(box.clamp(min=0), places), box >= 0


def repeated_states(states: States, times: int) -> States:
    """Each sample's states so many times in a row."""
    if times == 1:
        return states
    return States(
        states.last.repeat_interleave(times, dim=0), tuple(layer.repeat_interleave(times, dim=0) for layer in states.layers)
    )


def subset(index: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """A random share of the indices (B, n), the same count in each row, at least one of them; in their order."""
    count = max(1, round(share * index.shape[1]))
    if count >= index.shape[1]:
        return index
    chosen = torch.rand(index.shape, generator=generator).argsort(1)[:, :count].sort(1).values
    return index.gather(1, chosen.to(index.device))
