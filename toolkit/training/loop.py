"""The one training loop."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import torch

from readers.schema import ReadError
from toolkit import recipe as recipes
from toolkit.corpus.batches import Batch, BatchSampler, Prefetcher
from toolkit.errors import ToolkitError
from toolkit.interrupts import StopSignals
from toolkit.model import tokenizers
from toolkit.model.folder import WEIGHTS, LoadedModel, save_weights
from toolkit.model.masked import MaskedModel
from toolkit.objective.image_teacher import ImageTeacher
from toolkit.objective.objective import Objective, Scored
from toolkit.objective.scale import seed_step
from toolkit.progress import Progress
from toolkit.recipe import Recipe
from toolkit.training import checkpoint, optimizer
from toolkit.training.checkpoint import Position
from toolkit.training.meter import METRICS, Meter, Summary, keep_lines

FIT_BATCHES = 16  # of the data before the first step, for targets that are fitted
FIT_FROM = 2**40  # steps no run reaches: what targets are fitted on is no batch of the run


class Trainer:
    """Trains a model in a run folder, from its newest checkpoint if there is one.

    ``device`` and ``bf16`` as from toolkit.machine; ``inputs`` is the manifest hash of the data; ``teacher`` the model
    that a recipe with a frozen teacher learns from, ``pictures`` the teacher of pictures.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: MaskedModel,
        sampler: BatchSampler,
        run: Path,
        *,
        device: torch.device,
        bf16: bool = False,
        workers: int = 1,
        inputs: str = "",
        teacher: LoadedModel | None = None,
        pictures: ImageTeacher | None = None,
    ) -> None:
        self.recipe, self.sampler, self.run = recipe, sampler, run
        self.model = model
        self.device, self.bf16, self.workers = device, bf16, workers
        frozen, width = (teacher.model.encoder, teacher.recipe.encoder.width) if teacher is not None else (None, None)
        objective = Objective(recipe, model, tokenizers.build(recipe), sampler.subjects, frozen, width, pictures)
        self.objective = objective.to(device).train()
        self.optimizer = optimizer.build(self.objective, recipe, self.objective.rates())
        self.position = Position(0, recipes.fingerprint(recipe), inputs)

    def resume(self) -> int:
        """Continue from the newest checkpoint, if any; returns the steps done. Raises ToolkitError."""
        if saved := checkpoint.found(self.run):
            self.position = checkpoint.load(saved[-1], self.objective, self.optimizer)
        keep_lines(self.run / METRICS, self.position.step)
        return self.position.step

    def train(self, progress: Progress, stop: StopSignals) -> Summary:
        """Run to the recipe's last step.

        Raises ToolkitError (a loss that is not finite, a file that can no longer be read, a full disk) or Interrupted.
        """
        table, first = self.recipe.training, self.position.step
        self._fit()
        reader = Prefetcher(self.sampler, first, table.steps, self.workers)
        meter = Meter(self.run / METRICS, first, self.recipe)
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
                logs = (step + 1) % table.log_every == 0 or step + 1 == table.steps
                scored, norm = self._step(batch, step, detail=logs)
                meter.add(step + 1, scored, norm, waited, optimizer.learning_rate(self.recipe, step))
                if logs:
                    meter.log()
                progress.update(step + 1, meter.line)
                self.position = Position(step + 1, self.position.recipe, self.position.inputs)
                if (step + 1) % table.checkpoint_every == 0 or step + 1 == table.steps or stop.signum is not None:
                    saved = checkpoint.save(self.run, self.objective, self.optimizer, self.position)
                    stop.check(f"The checkpoint '{saved}' is complete; continue with --resume.")
        save_weights(self.model, self.run / WEIGHTS)
        return meter.summary(table.steps)

    def _fit(self) -> None:
        """Let targets learn what they need of the data; a resumed run has it from its checkpoint. Raises ToolkitError."""
        if self.objective.wants_batches:
            try:
                self.objective.fit([self.sampler.batch(FIT_FROM + number) for number in range(FIT_BATCHES)])
            except ReadError as problem:
                raise ToolkitError(f"Reading the data that codes are fitted on failed: {problem}.") from None

    def _step(self, batch: Batch, step: int, *, detail: bool) -> tuple[Scored, float]:
        for group in self.optimizer.param_groups:
            group["lr"] = group["factor"] * optimizer.learning_rate(self.recipe, step)
        seed_step(self.recipe.training.seed, step)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            scored = self.objective(batch, step, self.device, detail=detail)
        self.optimizer.zero_grad(set_to_none=True)
        scored.loss.backward()
        norm = float(torch.nn.utils.clip_grad_norm_(self.objective.parameters(), self.recipe.optimizer.clip_norm))
        if not (torch.isfinite(scored.loss) and norm < float("inf")):
            sources = ", ".join(dict.fromkeys(batch.sources))
            raise ToolkitError(
                f"The loss is {float(scored.loss.detach()):g} and its gradient {norm:g} at step {step + 1}; the weights "
                f"were not touched by this step. The batch came from: {sources}. Look at those files with "
                "`toolkit inspect`, or lower optimizer.learning_rate."
            )
        self.optimizer.step()
        self.objective.after_step(step)
        return scored, norm
