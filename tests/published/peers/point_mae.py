"""Records torch-pointcloud's Point-MAE: `python point_mae.py OUT.npz` in an environment with torch-pointcloud 0.0.18.

Groups are supplied, for its own grouping needs pyg-lib, which is not on PyPI. The key names that are written are those of
the original release, which torch-pointcloud renames.
"""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import fabricate
import numpy as np
import torch
from torch_pointcloud.models.point_mae import PointMAEPretraining

CASES = ((2, 16), (1, 64), (3, 5))  # samples, groups
NEIGHBOURS, WIDTH = 8, 48
RENAMED = (
    ("first_conv.0", "local_mlp.lins.0"),
    ("first_conv.1", "local_mlp.norms.0"),
    ("first_conv.3", "local_mlp.lins.1"),
    ("second_conv.0", "global_mlp.lins.0"),
    ("second_conv.1", "global_mlp.norms.0"),
    ("second_conv.3", "global_mlp.lins.1"),
    ("_conv.1.", "_conv.1.module."),
    ("mlp.fc1", "mlp.lins.0"),
    ("mlp.fc2", "mlp.lins.1"),
    ("pos_embed.0", "pos_embed.lins.0"),
    ("pos_embed.2", "pos_embed.lins.1"),
    ("increase_dim.0", "increase_dim.lins.0"),
)
# Over single points a convolution is a linear, which torch-pointcloud has for them.
CONVOLUTIONS = (*(f"{part}_conv.{layer}.weight" for part in ("first", "second") for layer in (0, 3)), "increase_dim.0.weight")


def original(name: str) -> str:
    """The released name of one of torch-pointcloud's."""
    for released, theirs in RENAMED:
        name = name.replace(theirs, released)
    return name


def model() -> PointMAEPretraining:
    return PointMAEPretraining(
        0,
        embed_dim=WIDTH,
        encoder_depth=2,
        decoder_depth=1,
        num_heads=6,  # the release's, which its tensors do not tell
        decoder_num_heads=6,
        group_size=NEIGHBOURS,
        encoder_local_channels=(WIDTH // 3, 2 * WIDTH // 3),  # 128, 256 and 512 for the release's width of 384
        encoder_global_channels=(4 * WIDTH // 3,),
    ).eval()


def shapes_of(module: torch.nn.Module) -> dict[str, list[int]]:
    """Released names and shapes."""
    named = {original(name): list(value.shape) for name, value in module.state_dict().items()}
    return {name: [*shape, 1] if name.endswith(CONVOLUTIONS) else shape for name, shape in named.items()}


def filled(module: torch.nn.Module, made: dict[str, np.ndarray]) -> torch.nn.Module:
    """The module with weights of released names."""
    state = module.state_dict()
    module.load_state_dict({k: torch.from_numpy(made[original(k)].reshape(v.shape)) for k, v in state.items()})
    return module


def groups(number: int, size: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Neighbourhoods (size, count, k, 3) and their centres (size, count, 3)."""
    return tuple(map(torch.from_numpy, fabricate.groups(number, size, count, NEIGHBOURS)))


@torch.no_grad()
def main(out: Path) -> None:
    ours = model()
    shapes = shapes_of(ours)
    filled(ours, fabricate.weights(shapes))
    cases = []
    for number, (size, count) in enumerate(CASES):
        near, centres = groups(number, size, count)
        seen, hidden = ours.MAE_encoder(near, centres)
        place = [ours.decoder_pos_embed(centres[mask].reshape(size, -1, 3)) for mask in (~hidden, hidden)]
        asked = ours.mask_token.expand(size, place[1].shape[1], -1)
        points = ours.increase_dim(ours.MAE_decoder(torch.cat([seen, asked], 1), torch.cat(place, 1), asked.shape[1]))
        part = ours.MAE_encoder
        every = part.norm(part.blocks(part.encoder(near), part.pos_embed(centres)))
        cases.append(
            {
                "size": np.array([size, count]),  # of groups(NUMBER)
                "hidden": hidden.numpy(),
                "every": every.numpy(),  # states of all groups, none hidden
                "seen": seen.numpy(),
                "points": points.numpy(),  # what the decoder makes of those
            }
        )
    versions = {name: importlib.metadata.version(name) for name in ("torch-pointcloud", "torch")}
    fabricate.record(out, versions, shapes, cases)


if __name__ == "__main__":
    torch.manual_seed(0)  # the masks
    main(Path(sys.argv[1]))
