"""Records Point-CMAE out of torch-pointcloud's parts: `python point_cmae.py OUT.npz` in an environment with 0.0.18 of it.

Nobody packages Point-CMAE, and its public code does not run as released. What it adds to Point-MAE is put together here as
that code has it: a class token with a place of its own before every block, which the decoder does not see, and two decoders.
"""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import fabricate
import numpy as np
import point_mae
import torch

CASES = ((2, 16), (1, 32), (3, 5))  # samples, groups
TOKENS = ("cls_token1", "cls_pos1", "cls_token2", "cls_pos2")
# Parts of the two decoders -> those of Point-MAE.
PARTS = ("mask_token", "decoder_pos_embed", "MAE_decoder", "increase_dim")
FIRST = dict(zip(("mask_token1", "decoder_pos_embed1", "MAE_decoder", "increase_dim"), PARTS, strict=True))
SECOND = dict(zip(("mask_token2", "decoder_pos_embed2", "MAE_decoder_", "increase_dim_"), PARTS, strict=True))


def shapes_of(one: dict[str, list[int]]) -> dict[str, list[int]]:
    """Names and shapes of Point-CMAE from those of Point-MAE."""
    shapes = {name: shape for name, shape in one.items() if name.startswith("MAE_encoder.")}
    for twin in (FIRST, SECOND):
        for name, part in twin.items():
            shapes |= {name + key[len(part) :]: shape for key, shape in one.items() if key.partition(".")[0] == part}
    return shapes | {f"MAE_encoder.{name}": [1, 1, point_mae.WIDTH] for name in TOKENS}


def one_of(made: dict[str, np.ndarray], twin: dict[str, str]) -> dict[str, np.ndarray]:
    """Weights of a Point-MAE with one of the two decoders."""
    one = {name: value for name, value in made.items() if name.startswith("MAE_encoder.")}
    for name, part in twin.items():
        one |= {part + key[len(name) :]: value for key, value in made.items() if key.partition(".")[0] == name}
    return one


@torch.no_grad()
def states(model: torch.nn.Module, made: dict[str, np.ndarray], near: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """Groups (B, n, k, 3) around centres (B, n, 3) -> states of the class token, then theirs, (B, 1 + n, W)."""
    token, place = (torch.from_numpy(made[f"MAE_encoder.{name}"]).expand(len(near), -1, -1) for name in TOKENS[:2])
    part = model.MAE_encoder
    x = torch.cat([token, part.encoder(near)], dim=1)
    return part.norm(part.blocks(x, torch.cat([place, part.pos_embed(centres)], dim=1)))


@torch.no_grad()
def points(model: torch.nn.Module, seen: torch.Tensor, centres: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """Groups at the ``hidden`` centres (B, h, 3k) from the states (B, n, W) of those seen."""
    place = model.decoder_pos_embed(torch.cat([centres, hidden], dim=1))
    x = torch.cat([seen, model.mask_token.expand(len(seen), hidden.shape[1], -1)], dim=1)
    return model.increase_dim(model.MAE_decoder(x, place, hidden.shape[1]))


def main(out: Path) -> None:
    shapes = shapes_of(point_mae.shapes_of(point_mae.model()))
    made = fabricate.weights(shapes)
    models = [point_mae.filled(point_mae.model(), one_of(made, twin)) for twin in (FIRST, SECOND)]
    cases = []
    for number, (size, groups) in enumerate(CASES):
        near, centres = point_mae.groups(number, size, groups)
        whole, count = states(models[0], made, near, centres), groups // 2
        seen = states(models[0], made, near[:, :count], centres[:, :count])[:, 1:]
        predicted = [points(model, seen, centres[:, :count], centres[:, count:]) for model in models]
        cases.append(
            {
                "size": np.array([size, groups]),  # of point_mae.groups(NUMBER)
                "every": whole.numpy(),  # the class token's state first
                "first": predicted[0].numpy(),  # the second half of the groups, from the first half
                "second": predicted[1].numpy(),
            }
        )
    versions = {name: importlib.metadata.version(name) for name in ("torch-pointcloud", "torch")}
    fabricate.record(out, versions, shapes, cases)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
