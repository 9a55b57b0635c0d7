"""Teachers: encoders that give targets and never get a gradient."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from toolkit.model.states import States
from toolkit.model.tokens import TokenSet
from toolkit.recipe import TeacherTable

Pair = tuple[nn.Module, nn.Module]  # what learns, what follows it


class Teacher(nn.Module):
    """Gives states of tokens under other weights than the student's, always without gradient and in evaluation mode.

    ``ema``: a copy that follows (Mean Teacher, 1703.01780; the rate rises over the run as in BYOL, data2vec and I-JEPA,
    here in a straight line); ``copy``: the student itself, run without gradient (CAE copies its weights every step,
    which is the same); ``frozen``: an encoder given from outside.
    """

    def __init__(self, table: TeacherTable, student: nn.Module, frozen: nn.Module | None = None) -> None:
        super().__init__()
        self.table = table
        self._student = [student]  # in a list: it is no part of this module
        own = frozen if table.kind == "frozen" else copy.deepcopy(student) if table.kind == "ema" else None
        self.encoder = own.requires_grad_(False).eval() if own is not None else None

    def train(self, mode: bool = True) -> Teacher:
        """A teacher never trains."""
        return super().train(False)

    @torch.no_grad()
    def states(self, tokens: TokenSet, index: Tensor | None = None) -> States:
        """States of the tokens at ``index`` int64 (B, n), None for all."""
        model = self.encoder if self.encoder is not None else self._student[0]
        return model(tokens, index)

    def rate(self, done: float) -> float:
        """Share of the old weights that stays, when this share of the run is done."""
        return self.table.start + (self.table.end - self.table.start) * min(max(done, 0.0), 1.0)

    def follow(self, done: float, others: Sequence[Pair] = ()) -> None:
        """After a step: move the copy, and ``others``, towards what they follow."""
        rate = self.rate(done) if self.table.kind == "ema" else 0.0  # a copy is the student as it is
        for student, teacher in others:
            blend(student, teacher, rate)
        if self.table.kind == "ema" and self.encoder is not None:
            blend(self._student[0], self.encoder, rate)


@torch.no_grad()
def blend(student: nn.Module, teacher: nn.Module, rate: float) -> None:
    """teacher = rate * teacher + (1 - rate) * student, parameter by parameter; buffers are taken over."""
    for mine, theirs in zip(teacher.parameters(), student.parameters(), strict=True):
        mine.lerp_(theirs.detach().to(mine.dtype), 1.0 - rate)
    for kept, now in zip(teacher.buffers(), student.buffers(), strict=True):
        kept.copy_(now)
