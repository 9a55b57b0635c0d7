"""What a released model is to this program: where it comes from, how its file is laid out, and what becomes of its tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from toolkit.errors import UsageError

if TYPE_CHECKING:  # so that `toolkit import --help` names the releases without loading torch
    from torch import Tensor

Layout = Mapping[str, tuple[int | None, ...]]  # a tensor's name -> its shape; None: any size
UNKNOWN = "unknown to this layout"


class Transfer:
    """A released state dict on its way into one of ours: every tensor of either side is accounted for.

    ``source``: their tensors, named as in the layout. Raises UsageError where a tensor that is asked for is not there.
    """

    def __init__(self, source: Mapping[str, Tensor]) -> None:
        self.source = dict(source)
        self.ours: dict[str, Tensor] = {}
        self.origin: dict[str, tuple[str, ...]] = {}  # of ours
        self.made: dict[str, str] = {}  # of ours -> what stands in for what the release does not have
        self.unfilled: dict[str, str] = {}  # prefix of ours -> why it keeps fresh weights
        self.passed: dict[str, str] = {}  # prefix of theirs -> why it is of no use
        self.taken: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self.source

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of one of their tensors, which does not count as used by that."""
        return tuple(self._get(key).shape)

    def count(self, pattern: str) -> int:
        """How many of their tensors ``pattern`` names, with ``{}`` for 0, 1, ..."""
        number = 0
        while pattern.format(number) in self.source:
            number += 1
        return number

    def use(self, key: str) -> Tensor:
        """One of their tensors, float32, used from now on."""
        value = self._get(key)
        self.taken.add(key)
        return value.float() if value.is_floating_point() else value

    def put(self, ours: str, value: Tensor, *theirs: str) -> None:
        """Give one of ours its value, made of the tensors ``theirs``."""
        self.ours[ours], self.origin[ours] = value.contiguous().clone(), theirs

    def join(self, ours: str, theirs: Sequence[str], change: Callable[..., Tensor]) -> None:
        """Make one of ours of several of theirs."""
        self.put(ours, change(*(self.use(key) for key in theirs)), *theirs)

    def move(self, ours: str, theirs: str, change: Callable[[Tensor], Tensor] = lambda value: value) -> None:
        """Make one of ours of one of theirs."""
        self.join(ours, [theirs], change)

    def linear(self, ours: str, theirs: str) -> None:
        """A weight, and the bias where the file has one."""
        self.move(f"{ours}.weight", f"{theirs}.weight")
        if f"{theirs}.bias" in self:
            self.move(f"{ours}.bias", f"{theirs}.bias")

    def fused(self, attention: str, theirs: str, kind: str) -> None:
        """Our query's and key_value's weight or bias (``kind``) of theirs, whose first third asks, then keys, then values."""
        query, both = self.use(theirs).tensor_split([self.shape(theirs)[0] // 3])
        self.put(f"{attention}.query.{kind}", query, theirs)
        self.put(f"{attention}.key_value.{kind}", both, theirs)

    def make(self, ours: str, value: Tensor, reason: str) -> None:
        """Give one of ours a value that the release does not have, and say what it is."""
        self.ours[ours], self.made[ours] = value.contiguous().clone(), reason

    def fresh(self, prefix: str, reason: str) -> None:
        """Let all of ours that begin so keep fresh random weights."""
        self.unfilled[prefix] = reason

    def skip(self, prefix: str, reason: str) -> None:
        """Say why those of theirs that begin so and that nothing takes are of no use."""
        self.passed[prefix] = reason

    def skipped(self) -> dict[str, str]:
        """Those of theirs that nothing took, and why."""
        left = [key for key in self.source if key not in self.taken]
        return {key: _reason(key, self.passed) or UNKNOWN for key in left}

    def why_fresh(self, ours: str) -> str | None:
        """Why one of ours keeps its fresh weights, if it may."""
        return _reason(ours, self.unfilled)

    def _get(self, key: str) -> Tensor:
        if key not in self.source:
            raise UsageError(f"The file has no tensor '{key}', which its layout calls for.")
        return self.source[key]


def _reason(key: str, reasons: Mapping[str, str]) -> str | None:
    """That of the longest prefix."""
    found = [prefix for prefix in reasons if key.startswith(prefix)]
    return reasons[max(found, key=len)] if found else None


@dataclass(frozen=True)
class Release:
    """A model that its authors published: ``name`` of ``--as``; ``where`` they offer the file, under which ``licence``.

    ``layout``: tensors that every such file has. ``convert`` moves the tensors and returns the table of the recipe that
    expresses the architecture and its preprocessing. ``no_restore``: why the file cannot restore recordings, as text or
    as a function of the transfer; nothing where its decoder can.
    """

    name: str
    system: str
    where: str
    licence: str
    layout: Layout
    convert: Callable[[Transfer], dict[str, Any]] = field(repr=False)
    no_restore: str | Callable[[Transfer], str] = ""

    def reason(self, transfer: Transfer) -> str:
        """Why this file cannot restore, if it cannot."""
        return self.no_restore(transfer) if callable(self.no_restore) else self.no_restore


VIT_PARTS = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attn.qkv": "attn.qkv",
    "attn.proj": "attn.proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def timm_blocks(t: Transfer, ours: str, theirs: str, depth: int, names: Mapping[str, str] | None = None) -> None:
    """Blocks of timm's VisionTransformer, as many releases name them; ``names`` of parts that one names otherwise."""
    part = VIT_PARTS | dict(names or {})
    for number in range(depth):
        mine, old = f"{ours}.{number}", f"{theirs}.{number}"
        for norm in ("norm1", "norm2"):
            t.linear(f"{mine}.{norm}", f"{old}.{part[norm]}")
        for kind in ("weight", "bias"):
            key = f"{old}.{part['attn.qkv']}.{kind}"
            if key in t:
                t.fused(f"{mine}.attention", key, kind)
        t.linear(f"{mine}.attention.out", f"{old}.{part['attn.proj']}")
        t.linear(f"{mine}.mlp.0", f"{old}.{part['mlp.fc1']}")
        t.linear(f"{mine}.mlp.2", f"{old}.{part['mlp.fc2']}")
