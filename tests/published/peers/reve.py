"""Records braindecode's REVE: `python reve.py OUT.npz` in an environment with braindecode 1.8.1.

braindecode imports torchaudio, whose wheel on PyPI wants CUDA's libraries; nothing of it is called here, so a module
without contents stands in where it cannot be loaded.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import tempfile
import types
from pathlib import Path
from unittest.mock import MagicMock

import fabricate
import numpy as np
import torch

# Electrodes of a made-up montage, metres; the position bank that braindecode would download holds others.
BANK = {f"E{i}": [round(float(x), 4) for x in 0.09 * fabricate.numbers(f"place {i}", 3) / 2] for i in range(12)}
# Samples, channels, seconds at 200 Hz: one channel, a length that patches fill, and one with a tail that is dropped.
CASES = ((2, 3, 2.0), (1, 12, 10.0), (3, 1, 4.7), (2, 5, 1.0))
SIZES = {"embed_dim": 128, "depth": 2, "heads": 3, "head_dim": 64, "freqs": 3}  # 81 phases, of which 64 are used


def braindecode_reve() -> type:
    try:
        import torchaudio  # noqa: F401
    except (OSError, ImportError):
        for name in [n for n in sys.modules if n.split(".")[0] == "torchaudio"]:
            del sys.modules[name]
        stub = types.ModuleType("torchaudio")
        stub.functional, stub.transforms = MagicMock(), MagicMock()
        sys.modules |= {"torchaudio": stub, "torchaudio.functional": stub.functional, "torchaudio.transforms": stub.transforms}
    from braindecode.models import REVE

    return REVE


def encoder(channels: int, seconds: float, *, attention_pooling: bool) -> tuple[torch.nn.Module, list[str]]:
    """braindecode's REVE for so many channels, and their names."""
    names = list(BANK)[:channels]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "reve_positions.json").write_text(json.dumps(BANK))
        os.environ["REVE_POSITIONS_PATH"] = folder
        model = braindecode_reve()(
            n_outputs=2,
            n_chans=channels,
            n_times=round(200 * seconds),
            sfreq=200,
            chs_info=[{"ch_name": name} for name in names],
            attention_pooling=attention_pooling,
            **SIZES,
        )
    return model.eval(), names


def places(names: list[str]) -> np.ndarray:
    return np.array([BANK[name] for name in names], np.float32)


@torch.no_grad()
def main(out: Path) -> None:
    made, cases = None, []
    for number, (size, channels, seconds) in enumerate(CASES):
        model, names = encoder(channels, seconds, attention_pooling=True)
        shapes = fabricate.shapes_of(model.state_dict())  # of which the head's alone depend on channels and length
        made = made or {name: shape for name, shape in shapes.items() if not name.startswith("final_layer")}
        model.load_state_dict({k: torch.from_numpy(v) for k, v in fabricate.weights(made).items()}, strict=False)
        eeg = fabricate.numbers(f"eeg {number}", size, channels, round(200 * seconds))
        states = model(torch.from_numpy(eeg), return_features=True)["features"]
        cases.append(
            {
                "shape": np.array(eeg.shape),  # of fabricate.numbers("eeg NUMBER")
                "places": places(names),
                "first": model(torch.from_numpy(eeg), return_output=True)[0].numpy(),
                "states": states.numpy(),
                "pooled": model._attention_pooling(states).numpy(),
            }
        )
    versions = {name: importlib.metadata.version(name) for name in ("braindecode", "torch")}
    fabricate.record(out, versions, made, cases)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
