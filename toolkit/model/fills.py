"""What stands in for hidden tokens where they enter the encoder."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from toolkit.model.tokens import TokenSet, gather
from toolkit.recipe import PassTable


def filled(
    tokens: TokenSet,
    visible: Tensor,
    hidden: Tensor,
    table: PassTable,
    token: Tensor | None,
    generator: torch.Generator,
    partners: Tensor | None,
) -> TokenSet:
    """The tokens with other patches at ``hidden`` int64 (B, h); those that are swapped hold one at ``visible`` (B, v).

    ``token`` (P,): the learned patch of the fill of that name. ``partners`` int64 (B,): samples of other subjects, whose
    patches of the same places the fill ``foreign`` takes; -1 where there is none, and then as without partners: noise.
    Each sample draws one of the fills. ``generator`` is the CPU's.
    """
    if not hidden.shape[1] or set(table.fill) <= {"drop", "keep"}:
        return tokens
    device, (size, count) = tokens.patches.device, hidden.shape
    old = gather(tokens.patches, hidden)
    noise = table.noise * torch.randn(old.shape, generator=generator).to(device)
    choices = {"keep": old, "zero": torch.zeros_like(old), "noise": noise}
    if token is not None:
        choices["token"] = token.expand_as(old)
    if "foreign" in table.fill:
        choices["foreign"] = noise if partners is None else _foreign(tokens, hidden, partners, noise)
    drawn = torch.randint(len(table.fill), (size,), generator=generator).to(device)
    new = torch.stack([choices[name].type_as(old) for name in table.fill])[drawn, torch.arange(size, device=device)]
    swaps = round(table.swapped * count)
    if swaps:
        which = torch.rand(size, count, generator=generator).argsort(1)[:, :swaps].to(device)
        odds = tokens.valid.gather(1, visible).float().cpu() + 1e-9  # of a sample without a valid one, any
        others = visible.gather(1, torch.multinomial(odds, swaps, replacement=True, generator=generator).to(device))
        new = new.scatter(1, which[..., None].expand(-1, -1, new.shape[-1]), gather(tokens.patches, others))
    index = hidden[..., None].expand_as(new)
    return replace(tokens, patches=tokens.patches.scatter(1, index, new))


def _foreign(tokens: TokenSet, hidden: Tensor, partners: Tensor, noise: Tensor) -> Tensor:
    partner = partners.clamp(min=0)
    known = tokens.valid[partner].gather(1, hidden) & (partners >= 0)[:, None]
    return torch.where(known[..., None], gather(tokens.patches[partner], hidden), noise)


def partners_of(subjects: list[str], generator: torch.Generator) -> Tensor:
    """For each sample another one of another subject, at random; -1 where all are of one subject. int64 (B,)."""
    names = {name: number for number, name in enumerate(dict.fromkeys(subjects))}
    who = torch.tensor([names[name] for name in subjects])
    score = torch.rand(len(who), len(who), generator=generator)
    score = score.masked_fill(who[:, None] == who[None, :], -1.0)
    best, partner = score.max(1)
    return partner.masked_fill(best < 0, -1)
