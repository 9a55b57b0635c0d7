"""Checkpoints: one safetensors file a step with weights, optimizer, random state and data position.

The random state is kept although batches and masks are functions of seed and step: a part with
dropout would need it. The file appears whole or not at all; the two newest are kept.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from toolkit.errors import ToolkitError
from toolkit.model.folder import save_tensors

FOLDER = "checkpoints"
KEEP = 2


@dataclass(frozen=True)
class Position:
    """Where a run stands: steps done, and the fingerprint of its recipe and its inputs."""

    step: int
    recipe: str
    inputs: str


def save(run: Path, model: nn.Module, optimizer: torch.optim.Optimizer, position: Position) -> Path:
    """Write ``checkpoints/step-NNNNNNNN.safetensors`` atomically and drop older ones. Raises ToolkitError."""
    tensors: dict[str, Tensor] = {f"model.{k}": v for k, v in model.state_dict().items()}
    for index, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in slots.items()}
    tensors["random.cpu"] = torch.get_rng_state()
    path = run / FOLDER / f"step-{position.step:08d}.safetensors"
    save_tensors(path, tensors, {"position": json.dumps(position.__dict__)})
    for old in found(run)[:-KEEP]:
        old.unlink(missing_ok=True)
    return path


def found(run: Path) -> list[Path]:
    """The run's checkpoints, oldest first."""
    return sorted((run / FOLDER).glob("step-*.safetensors"))


def load(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> Position:
    """Restore model, optimizer and random state in place. Raises ToolkitError when the file is damaged."""
    try:
        with safe_open(path, framework="pt") as handle:
            position = Position(**json.loads(handle.metadata()["position"]))
            tensors = {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as problem:
        raise ToolkitError(f"Checkpoint '{path}' cannot be read: {problem}. Remove it to continue from the one before.") from None
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    state = optimizer.state_dict()
    state["state"] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            state["state"].setdefault(int(index), {})[name] = value
    optimizer.load_state_dict(state)
    torch.set_rng_state(tensors["random.cpu"])
    return position
