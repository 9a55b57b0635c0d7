"""The one training loop."""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from readers.schema import ReadError
from toolkit import files
from toolkit import recipe as recipes
from toolkit.corpus.batches import Batch, BatchSampler, Prefetcher
from toolkit.errors import ToolkitError
from toolkit.interrupts import StopSignals
from toolkit.model import tokenizers
from toolkit.model.autoencoder import MaskedAutoencoder
from toolkit.model.folder import WEIGHTS, save_weights
from toolkit.objective.reconstruction import MaskedReconstruction, Scored
from toolkit.progress import Progress
from toolkit.recipe import Recipe
from toolkit.training import checkpoint, optimizer
from toolkit.training.checkpoint import Position

METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class Summary:
    """How a run ended. ``loss`` is the mean over the last tenth of the logged steps."""

    steps: int
    loss: float
    trivial: float
    samples_per_s: float
    seconds: float


class Trainer:
    """Trains a model in a run folder, from its newest checkpoint if there is one.

    ``device`` and ``bf16`` as from toolkit.machine; ``inputs`` is the manifest hash of the data.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: MaskedAutoencoder,
        sampler: BatchSampler,
        run: Path,
        *,
        device: torch.device,
        bf16: bool = False,
        workers: int = 1,
        inputs: str = "",
    ) -> None:
        self.recipe, self.sampler, self.run = recipe, sampler, run
        self.model = model.to(device).train()
        self.device, self.bf16, self.workers = device, bf16, workers
        self.optimizer = optimizer.build(self.model, recipe)
        self.objective = MaskedReconstruction(recipe)
        self.tokenizer = tokenizers.build(recipe)
        self.position = Position(0, recipes.fingerprint(recipe), inputs)

    def resume(self) -> int:
        """Continue from the newest checkpoint, if any; returns the steps done. Raises ToolkitError."""
        if saved := checkpoint.found(self.run):
            self.position = checkpoint.load(saved[-1], self.model, self.optimizer)
        keep_lines(self.run / METRICS, self.position.step)
        return self.position.step

    def train(self, progress: Progress, stop: StopSignals) -> Summary:
        """Run to the recipe's last step.

        Raises ToolkitError (a loss that is not finite, a file that can no longer be read, a full disk) or Interrupted.
        """
        table, first = self.recipe.training, self.position.step
        reader = Prefetcher(self.sampler, first, table.steps, self.workers)
        meter = _Meter(self.run / METRICS, first, table.batch_size)
        progress.start_at(first)
        with meter, contextlib.closing(reader):
            for step in range(first, table.steps):
                waited = time.monotonic()
                try:
                    batch = reader.get()
                except ReadError as problem:
                    raise ToolkitError(
                        f"Reading the batch of step {step + 1} failed: {problem}. Mend or remove the file, then "
                        "continue from the last checkpoint with --resume."
                    ) from None
                waited = time.monotonic() - waited
                scored, norm = self._step(batch, step)
                meter.add(step + 1, scored, norm, waited, optimizer.learning_rate(self.recipe, step))
                if (step + 1) % table.log_every == 0 or step + 1 == table.steps:
                    meter.log()
                progress.update(step + 1, meter.line)
                self.position = Position(step + 1, self.position.recipe, self.position.inputs)
                if (step + 1) % table.checkpoint_every == 0 or step + 1 == table.steps or stop.signum is not None:
                    saved = checkpoint.save(self.run, self.model, self.optimizer, self.position)
                    stop.check(f"The checkpoint '{saved}' is complete; continue with --resume.")
        save_weights(self.model, self.run / WEIGHTS)
        return meter.summary(table.steps)

    def _step(self, batch: Batch, step: int) -> tuple[Scored, float]:
        for group in self.optimizer.param_groups:
            group["lr"] = optimizer.learning_rate(self.recipe, step)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            scored = self.objective(self.model, self.tokenizer.tokenize(batch, self.device), step, self.device)
        self.optimizer.zero_grad(set_to_none=True)
        scored.loss.backward()
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.optimizer.clip_norm))
        if not (torch.isfinite(scored.loss) and norm < float("inf")):
            sources = ", ".join(dict.fromkeys(batch.sources))
            raise ToolkitError(
                f"The loss is {float(scored.loss.detach()):g} and its gradient {norm:g} at step {step + 1}; the weights "
                f"were not touched by this step. The batch came from: {sources}. Look at those files with "
                "`toolkit inspect`, or lower optimizer.learning_rate."
            )
        self.optimizer.step()
        return scored, norm


class _Meter:
    """Averages between log lines and appends to metrics.jsonl."""

    def __init__(self, path: Path, first: int, batch_size: int) -> None:
        self.path, self.first, self.batch_size = path, first, batch_size
        self.began = self.logged = time.monotonic()
        self.rows: list[dict[str, Any]] = []
        self.line = ""

    def __enter__(self) -> _Meter:
        self.handle = self.path.open("a", encoding="utf-8")
        return self

    def __exit__(self, *problem: object) -> None:
        with contextlib.suppress(OSError):  # every line was flushed; a full disk was told then
            self.handle.close()

    def add(self, step: int, scored: Scored, norm: float, waited: float, rate: float) -> None:
        """Take one step's figures."""
        self.rows.append(
            {
                "step": step,
                "loss": float(scored.loss.detach()),
                "loss_trivial": float(scored.trivial.detach()),
                "learning_rate": rate,
                "grad_norm": norm,
                "waited": waited,
            }
        )

    def log(self) -> None:
        """Write one line: means since the last one."""
        now = time.monotonic()
        seconds = max(now - self.logged, 1e-9)
        mean = {k: sum(r[k] for r in self.rows) / len(self.rows) for k in ("loss", "loss_trivial", "grad_norm")}
        row = {
            "step": self.rows[-1]["step"],
            **{k: round(v, 6) for k, v in mean.items()},
            "learning_rate": self.rows[-1]["learning_rate"],
            "samples_per_s": round(self.batch_size * len(self.rows) / seconds, 2),
            "data_wait": round(sum(r["waited"] for r in self.rows) / seconds, 4),
        }
        try:
            print(json.dumps(row), file=self.handle, flush=True)
        except OSError as problem:
            raise ToolkitError(
                f"'{self.path}' could not be written: {problem.strerror}. Free space, then continue from the last "
                "checkpoint with --resume."
            ) from None
        self.line = (
            f"loss {row['loss']:.4f} (mean predictor {row['loss_trivial']:.4f}), "
            f"{row['samples_per_s']:.1f} samples/s, data wait {100 * row['data_wait']:.0f} %"
        )
        self.rows, self.logged = [], now

    def summary(self, steps: int) -> Summary:
        """The figures of the whole run, the loss from every line of the log."""
        history = read_metrics(self.path.parent)
        last = history[-max(1, len(history) // 10) :]
        seconds = time.monotonic() - self.began
        loss, trivial = (sum(r[k] for r in last) / max(1, len(last)) for k in ("loss", "loss_trivial"))
        return Summary(steps, loss, trivial, self.batch_size * (steps - self.first) / max(seconds, 1e-9), seconds)


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl; the last line of a killed run may be cut and is then left out."""
    rows = []
    for line in (run / METRICS).read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return rows


def keep_lines(path: Path, step: int) -> None:
    """Drop the lines of metrics.jsonl that a killed run wrote after the checkpoint at ``step``."""
    if not path.exists():
        return
    kept = [json.dumps(row) + "\n" for row in read_metrics(path.parent) if row["step"] <= step]
    files.write_text(path, "".join(kept))
