"""One pretraining run: its folder, its record, and the loop in between."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from readers.prepared_store import Prepared
from readers.schema import ReadError
from toolkit import files, machine
from toolkit import recipe as recipes
from toolkit.corpus.batches import BatchSampler, Source
from toolkit.corpus.contrasts import measure
from toolkit.corpus.inputs import Failure
from toolkit.corpus.sources import channel_counts
from toolkit.errors import ToolkitError, UsageError
from toolkit.interrupts import StopSignals
from toolkit.model import folder, masked
from toolkit.model.folder import LoadedModel
from toolkit.objective import image_teacher
from toolkit.objective.image_teacher import ImageTeacher
from toolkit.progress import Progress
from toolkit.recipe import Recipe, TermTable
from toolkit.record import RunRecord, manifest_hash
from toolkit.report.training import write_report
from toolkit.training import held_out
from toolkit.training.loop import Trainer
from toolkit.training.meter import read_metrics
from toolkit.training.pictures import reconstructions_png

INPUTS = "inputs.txt"


class Job:
    """A run in the folder ``out``: :meth:`prepare` checks and creates, :meth:`run` trains, and scores what was ``held`` out."""

    def __init__(
        self,
        recipe: Recipe,
        sources: list[Source],
        failures: list[Failure],
        out: Path,
        *,
        device: torch.device,
        bf16: bool,
        workers: int,
        held: Sequence[Source] = (),
    ) -> None:
        self.recipe, self.sources, self.failures, self.out = recipe, sources, failures, out
        self.held = held
        self.device, self.bf16, self.workers = device, bf16, workers
        self.inputs = manifest_hash(
            (f for s in sources for f in s.recording.files),
            (stamp for s in sources if isinstance(s.recording, Prepared) for stamp in s.recording.stamps),
        )
        self.record = RunRecord("pretrain")
        self.fresh: list[str] = []  # parts that --init had no weights for

    def prepare(self, *, init: Path | None, resume: bool, overwrite: bool) -> None:
        """Build the model and the run folder, or take up the run that is there. Raises UsageError before any work."""
        model = masked.build(self.recipe)
        teacher, pictures = _teacher(self.recipe), _pictures(self.recipe)
        if init is not None:
            weights = init if init.is_file() else init / folder.WEIGHTS
            self.fresh = folder.start_from(model, folder.read_weights(weights, init), weights)
        sampler = BatchSampler(self.sources, self.recipe)
        if any(term.target == "subject" for term in self.recipe.terms) and len(sampler.subjects) < 2:
            raise UsageError(
                f"Recipe '{self.recipe.name}' tells subjects apart, and all {len(self.sources)} recordings are of one: "
                f"{sampler.subjects[0]}. Name subjects in a manifest's column 'subject'."
            )
        if resume and (self.out / folder.RECIPE).exists():
            self._check_same_run()
        else:
            files.claim_output(self.out, overwrite=overwrite, what="Run folder")
            files.write_text(self.out / INPUTS, self.inputs + "\n")
            files.write_text(self.out / folder.RECIPE, recipes.to_toml(self.recipe))
        self.trainer = Trainer(
            self.recipe,
            model,
            sampler,
            self.out,
            device=self.device,
            bf16=self.bf16,
            workers=self.workers,
            inputs=self.inputs,
            teacher=teacher,
            pictures=pictures,
        )
        done = self.trainer.resume() if resume else 0
        parameters = sum(p.numel() for p in model.parameters())
        self.headline = (
            f"{self.recipe.name} ({self.recipe.size}, {parameters / 1e6:.2f} M parameters) on {len(self.sources)} "
            f"recordings, steps {done} to {self.recipe.training.steps}, {self.device}"
        )
        self.record.add(
            recipe=self.recipe.model_dump(mode="json"),
            recipe_hash=recipes.fingerprint(self.recipe),
            device=str(self.device),
            bf16=self.bf16,
            seed=self.recipe.training.seed,
            inputs=len(self.sources),
            input_hash=self.inputs,
            channels=channel_counts(self.sources),
            parameters=parameters,
            failures=[f.__dict__ for f in self.failures],
            init=str(init) if init else None,
            teacher_hash=teacher.hash if teacher else pictures.hash if pictures else None,
        )

    def run(self, progress: Progress, stop: StopSignals) -> dict[str, Any]:
        """Train to the end and return the facts of ``pretrain --json``. Raises ToolkitError, Interrupted."""
        try:
            summary = self.trainer.train(progress, stop)
        except ToolkitError as problem:
            self.record.add(error=str(problem))
            self.record.write(self.out / folder.RUN, exit_code=problem.exit_code)
            raise
        self.failures += [Failure(path, reason) for path, reason in self.trainer.sampler.broken.items()]
        held = self._held_out()
        self._report(held)
        if (contrasts := measure(self.sources, self.recipe)) is not None:
            self.record.add(contrasts=contrasts.document())
        facts = {
            "run": str(self.out),
            "steps": summary.steps,
            "loss": summary.loss,
            "loss_trivial": summary.trivial,
            "held_out": held,
            "samples_per_s": summary.samples_per_s,
            "peak_memory_mb": machine.peak_memory_mb(),
            "seconds": summary.seconds,
        }
        self.record.add(model_hash=files.sha256(self.out / folder.WEIGHTS), failures=[f.__dict__ for f in self.failures], **facts)
        self.record.write(self.out / folder.RUN, exit_code=3 if self.failures else 0)
        return facts

    def _held_out(self) -> dict[str, Any] | None:
        """What the recordings cost that were held out, if any were and one of them can be read."""
        if not self.held:
            return None
        with contextlib.suppress(ReadError):
            found = held_out.score(self.trainer.objective, self.held, self.recipe, self.device, bf16=self.trainer.bf16)
            return {
                "loss": found.loss,
                "loss_trivial": found.trivial,
                "recordings": found.recordings,
                "subjects": found.subjects,
            }
        return None

    def _report(self, held: dict[str, Any] | None) -> None:
        """Write report.html. A picture that cannot be drawn for want of readable data is left out."""
        sampler, panels = self.trainer.sampler, None
        with contextlib.suppress(ReadError):
            panels = reconstructions_png(
                self.out / "reconstructions.png", self.trainer.model, sampler.batch(self.recipe.training.steps), self.device
            )
        facts = {
            "recipe": f"{self.recipe.name} ({self.recipe.size})",
            "paper": self.recipe.paper,
            "recordings": len(self.sources),
            "subjects": len(sampler.subjects),
            "device": str(self.device),
        }
        if held is not None:
            facts["held out"] = (
                f"{held['recordings']} recordings of {held['subjects']} subjects: loss {held['loss']:.4g}, "
                f"where the trivial prediction costs {held['loss_trivial']:.4g}"
            )
        write_report(
            self.out,
            headline=self.headline,
            facts=facts,
            rows=read_metrics(self.out),
            terms={term.name: _in_words(term) for term in self.recipe.terms},
            panels=panels,
        )

    def _check_same_run(self) -> None:
        before = folder.read_recipe(self.out, self.out)
        begun = (self.out / INPUTS).read_text(encoding="utf-8").strip()
        if before != self.recipe:
            pairs = zip(recipes.to_toml(before).splitlines(), recipes.to_toml(self.recipe).splitlines(), strict=False)
            old, new = next(pair for pair in pairs if pair[0] != pair[1])
            raise UsageError(
                f"'{self.out}' was begun with another recipe: there '{old}', now '{new}'. --resume continues the same "
                "run only; start a new one from these weights with --init."
            )
        if begun != self.inputs:
            raise UsageError(
                f"'{self.out}' was begun on other data (input hash {begun}, now {self.inputs}). --resume continues "
                "the same run only; start a new one from these weights with --init."
            )


def _teacher(recipe: Recipe) -> LoadedModel | None:
    """The model that a recipe with a frozen teacher learns from. Raises UsageError where none is given, or of other tokens."""
    if recipe.teacher is None or recipe.teacher.kind != "frozen":
        return None
    if not recipe.teacher.path:
        raise UsageError(f"Recipe '{recipe.name}' learns from a trained model: say which with --set teacher.path=RUN.")
    teacher = folder.load(Path(recipe.teacher.path))
    for key in ("data", "tokenizer"):
        if getattr(teacher.recipe, key) != getattr(recipe, key):
            raise UsageError(
                f"teacher.path: model '{recipe.teacher.path}' has another [{key}] table than this run, so that its tokens are "
                "not the same. Train the student with the teacher's: see recipe.toml there."
            )
    return teacher


def _pictures(recipe: Recipe) -> ImageTeacher | None:
    """The teacher of pictures of a recipe that has one. Raises UsageError where none is given, or it cannot be used."""
    if recipe.teacher is None or recipe.teacher.kind != "image":
        return None
    if not recipe.teacher.path:
        raise UsageError(
            f"Recipe '{recipe.name}' learns from an image model: say which with --set teacher.path=FILE. It is "
            f"{image_teacher.HOW}."
        )
    return image_teacher.load(Path(recipe.teacher.path))


def _in_words(term: TermTable) -> str:
    """What a term asks, for the report."""
    what = f"{term.queries} tokens, predictor '{term.predictor}'"
    return f"{what}, target '{term.target}', loss '{term.loss}', weight {term.weight:g}"
