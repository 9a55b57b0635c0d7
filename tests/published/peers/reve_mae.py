"""Records REVE's masked autoencoder out of braindecode's parts: `python reve_mae.py OUT.npz` with braindecode 1.8.1.

braindecode has the encoder alone. The decoder is put together here from its transformer as the paper's public code does it:
the encoder's states with the encoder's code of places added once more, a mask token with its place for what is hidden,
blocks, a linear; and the second loss's prediction from one vector and the place of each hidden patch.
"""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import fabricate
import numpy as np
import reve
import torch
from torch import nn

CASES = ((2, 3, 2.0), (1, 6, 4.7), (1, 1, 10.0))


class Autoencoder(nn.Module):
    """The public code's layout of names."""

    def __init__(self, encoder: nn.Module, transformer: type) -> None:
        super().__init__()
        width, samples = reve.SIZES["embed_dim"], encoder.patch_size
        self.encoder = encoder
        self.decoder = transformer(width, 1, reve.SIZES["heads"], reve.SIZES["head_dim"], 96, geglu=True)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.to_pixels = nn.Linear(width, samples)
        self.cls_query_token = nn.Parameter(torch.zeros(1, 1, width))
        self.cls_to_pixels = nn.Sequential(nn.Linear(width, 4 * width, bias=False), nn.ReLU(), nn.Linear(4 * width, samples))

    @torch.no_grad()
    def forward(self, eeg: torch.Tensor, places: torch.Tensor, seen: torch.Tensor, hidden: torch.Tensor) -> dict:
        """(B, C, T), (B, C, 3), the tokens int64 (v,) and (h,) that are seen and hidden, in all samples."""
        part = self.encoder
        patches = eeg.unfold(2, part.patch_size, part.patch_size - part.patch_overlap)
        places = part.fourier4d.add_time_patch(places, patches.shape[2])
        code = part.ln(part.fourier4d(places) + part.mlp4d(places))
        layers = part.transformer((part.to_patch_embedding(patches).flatten(1, 2) + code)[:, seen], True)
        asked = self.mask_token + code[:, hidden]
        states = self.decoder(torch.cat([layers[-1] + code[:, seen], asked], dim=1))[:, len(seen) :]
        every = torch.cat(layers, dim=1)
        share = (self.cls_query_token @ every.transpose(1, 2) / every.shape[2] ** 0.5).softmax(-1)
        vector = share @ every
        return {"patches": self.to_pixels(states), "vector": vector[:, 0], "spread": self.cls_to_pixels(vector + code[:, hidden])}


def main(out: Path) -> None:
    made, cases = None, []
    for number, (size, channels, seconds) in enumerate(CASES):
        encoder, names = reve.encoder(channels, seconds, attention_pooling=False)
        model = Autoencoder(encoder, type(encoder.transformer)).eval()
        shapes = fabricate.shapes_of(model.state_dict())
        made = made or {name: shape for name, shape in shapes.items() if "final_layer" not in name}
        model.load_state_dict({k: torch.from_numpy(v) for k, v in fabricate.weights(made).items()}, strict=False)
        eeg = fabricate.numbers(f"eeg {number}", size, channels, round(200 * seconds))
        steps = 1 + (eeg.shape[2] - 200) // 180
        order = np.argsort(fabricate.numbers(f"order {number}", channels * steps))
        seen, hidden = (torch.from_numpy(np.sort(part)) for part in np.split(order, [order.size - order.size // 2]))
        places = reve.places(names)
        found = model(torch.from_numpy(eeg), torch.from_numpy(places).expand(size, -1, -1), seen, hidden)
        about = {"shape": np.array(eeg.shape), "places": places, "seen": seen.numpy(), "hidden": hidden.numpy()}
        cases.append(about | {name: value.numpy() for name, value in found.items()})
    versions = {name: importlib.metadata.version(name) for name in ("braindecode", "torch")}
    fabricate.record(out, versions, made, cases)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
