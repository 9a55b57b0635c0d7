"""How much cheaper queries that only read the encoder's output are than a joint decoder: seconds a step, in one run.

    python examples/predictor_speed.py [--tokens 512] [--width 256] [--depth 4] [--ratio 0.75]

Forward and backward of the predictor alone, turn and turn about, the median of each.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable

import torch
from torch import Tensor

from toolkit.model.predictors import Cross, Joint, Memory, Part
from toolkit.model.states import States
from toolkit.model.tokenizers.descriptors import DESCRIPTOR
from toolkit.model.tokens import TokenSet
from toolkit.recipe import PositionTable, TransformerTable

POSITION = PositionTable(longest=(1.0, 1.0, 1.0, 10.0), shortest=(0.1, 0.1, 0.1, 0.1), rotary=("t",))


def tokens(size: int, count: int) -> TokenSet:
    none = torch.zeros(size, count, dtype=torch.int64)
    place = torch.rand(size, count, 4)
    return TokenSet(torch.zeros(size, count, 1), place, none, torch.zeros(size, count, DESCRIPTOR), none == 0, none, (1, count))


def seconds(step: Callable[[], Tensor]) -> float:
    began = time.perf_counter()
    step().square().mean().backward()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("tokens", 512), ("width", 256), ("depth", 4), ("batch", 8), ("rounds", 15), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--ratio", type=float, default=0.75)
    asked = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(asked.threads)
    table = TransformerTable(width=asked.width, depth=asked.depth, heads=asked.width // 32, head_width=32, mlp=4 * asked.width)
    hidden = round(asked.ratio * asked.tokens)
    seen, queries = tokens(asked.batch, asked.tokens - hidden), tokens(asked.batch, hidden)
    states = torch.randn(asked.batch, asked.tokens - hidden, asked.width, requires_grad=True)
    memory = Memory(States(states, (states,)), seen)
    part = Part(table, POSITION, asked.width, 0)
    cross, joint = Cross(part, 1), Joint(part)
    part = queries.take(torch.arange(hidden // 3).expand(asked.batch, -1))
    steps = {
        "joint": lambda: joint(memory, queries),
        "cross": lambda: cross(memory, queries),
        "cross, a third of the queries": lambda: cross(memory, part),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(asked.rounds):
        for name, step in steps.items():
            times[name].append(seconds(step))
    median = {name: sorted(each)[len(each) // 2] for name, each in times.items()}
    print(f"{asked.tokens} tokens, {hidden} hidden, width {asked.width}, {asked.depth} blocks, batch {asked.batch},")
    print(f"{asked.threads} threads, {platform.machine()}, torch {torch.__version__}: forward and backward of the predictor")
    for name, value in median.items():
        print(f"{name:30} {1000 * value:8.1f} ms  {median['joint'] / value:5.2f} times joint's speed")


if __name__ == "__main__":
    main()
