"""The objective of a recipe: its passes over a batch and its terms, as the tables say. Nothing here knows a recipe's name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from toolkit.corpus.batches import Batch
from toolkit.model.branch import Prediction
from toolkit.model.fills import partners_of
from toolkit.model.masked import MaskedModel
from toolkit.model.tokenizers.base import Tokenizer
from toolkit.model.tokenizers.points import PointGroups
from toolkit.model.tokens import TokenSet, gather, jittered
from toolkit.objective import targets
from toolkit.objective.beams import Sample, resampled
from toolkit.objective.distances import Distance, mean
from toolkit.objective.gates import reverse
from toolkit.objective.guided import kept
from toolkit.objective.image_teacher import Guidance, ImageTeacher
from toolkit.objective.masks import MaskSampler
from toolkit.objective.scale import step_generator, visible_scale
from toolkit.objective.scene import Scene, subset
from toolkit.objective.spectrum import deviation, effective_rank
from toolkit.objective.targets import Compared
from toolkit.objective.teacher import Teacher
from toolkit.recipe import Recipe, TermTable

LEARNED = ("latent", "pooled", "content", "coordinate", "view")  # targets made by weights
RANK_TOKENS = 2048  # states that the effective rank is taken of


@dataclass(frozen=True)
class TermScore:
    """Loss of a term and its trivial level, scalars; of a detailed step also ``copy``, the level of copying the nearest visible
    token, and the deviations of prediction and target. ``learned``: the target is made by weights, so that it can collapse."""

    loss: Tensor
    trivial: Tensor
    copy: float | None = None
    predicted: float | None = None
    target: float | None = None
    learned: bool = False


@dataclass(frozen=True)
class Scored:
    """The weighted sum of the terms' losses and of their trivial levels, each term, and the effective rank of the states.

    ``salient``: shares of the most salient tokens, and of all, that the first pass left visible, where masks are guided.
    """

    loss: Tensor
    trivial: Tensor
    terms: dict[str, TermScore] = field(default_factory=dict)
    rank: float | None = None
    salient: tuple[float, float] | None = None


class Objective(nn.Module):
    """Model, teacher and targets of a recipe; calling it scores a batch.

    ``subjects``: all names that batches may hold. ``frozen``: the encoder of the model that teaches, ``pictures``: the
    teacher of pictures, for a recipe with such a teacher.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: MaskedModel,
        tokenizer: Tokenizer,
        subjects: Sequence[str] = (),
        frozen: nn.Module | None = None,
        frozen_width: int | None = None,
        pictures: ImageTeacher | None = None,
    ) -> None:
        super().__init__()
        self.recipe, self.tokenizer = recipe, tokenizer
        self.model = model
        self.number = {name: number for number, name in enumerate(subjects)}
        shown = recipe.teacher is not None and recipe.teacher.kind == "image"
        assert shown == (pictures is not None)
        self.teacher = Teacher(recipe.teacher, model.encoder, frozen) if recipe.teacher is not None and not shown else None
        self._pictures = [pictures]  # in a list: given from outside, it is no part of what a checkpoint holds
        width = pictures.width if pictures is not None else frozen_width or recipe.encoder.width
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.training.seed + 1)
            self.targets = nn.ModuleList(targets.build(recipe, t, tokenizer, len(subjects), width) for t in recipe.terms)
            self.distances = nn.ModuleList(Distance(t, recipe.loss.kind, recipe.encoder.width) for t in recipe.terms)
        self.masks = [MaskSampler(recipe.mask_of(n), recipe.tokenizer.channels) for n in range(len(recipe.passes))]

    def fit(self, batches: Sequence[Batch]) -> None:
        """Fit what targets need to know of the data before training; nothing where it is known, as after a resume."""
        device, tokens = next(self.parameters()).device, [self.tokenizer.tokenize(batch) for batch in batches]
        for number, target in enumerate(self.targets):
            if isinstance(target, targets.Target) and not target.fitted:
                target.cpu()  # once a run, and the same on every machine
                target.fit(tokens, step_generator(self.recipe.training.seed, 0, number))
                target.to(device)

    @property
    def wants_batches(self) -> bool:
        """Whether :meth:`fit` has something to learn."""
        return any(isinstance(target, targets.Target) and not target.fitted for target in self.targets)

    def rates(self) -> dict[nn.Parameter, float]:
        """Parameters that learn faster than the rest, and how many times."""
        quick = [target for target in self.targets if isinstance(target, targets.Subject)]
        return {parameter: target.rate for target in quick for parameter in target.parameters()}

    def forward(self, batch: Batch, step: int, device: torch.device, *, detail: bool = False) -> Scored:
        """Score a batch; masks and noise are pure functions of seed and step. ``detail``: with all levels and deviations."""
        done = step / self.recipe.training.steps
        generator = step_generator(self.recipe.training.seed, step, 1)
        scene = self._scene(batch, step, device, done, generator)
        queries = [self._queries(term, scene, generator) for term in self.recipe.terms]
        predictions = dict(zip((t.name for t in self.recipe.terms), self.model.predictions(scene.looks, queries), strict=True))
        scores: dict[str, TermScore] = {}
        for term, target, distance in zip(self.recipe.terms, self.targets, self.distances, strict=True):
            compared = target(scene, _gated(term, predictions[term.name]), predictions)
            measured = distance(compared)
            scores[term.name] = TermScore(measured.loss, measured.trivial.detach())
            if detail:
                scores[term.name] = self._detailed(scores[term.name], compared, term, distance, scene, predictions[term.name])
        loss, trivial = (
            sum((t.weight * getattr(scores[t.name], key) for t in self.recipe.terms), torch.zeros((), device=device))
            for key in ("loss", "trivial")
        )
        if not detail:
            return Scored(loss, trivial, scores)
        return Scored(loss, trivial, scores, _rank(scene), _salient(scene) if self.masks[0].table.guided else None)

    def after_step(self, step: int) -> None:
        """After an optimizer step: the teacher follows."""
        if self.teacher is not None:
            others = [pair for target in self.targets if isinstance(target, targets.Target) for pair in target.followed()]
            self.teacher.follow((step + 1) / self.recipe.training.steps, others)

    def _scene(self, batch: Batch, step: int, device: torch.device, done: float, generator: torch.Generator) -> Scene:
        samples = self._samples(batch, generator)
        views = self._views(samples, device, generator)
        subjects = torch.tensor([self.number.get(name, 0) for name in batch.subjects], device=device)
        repeats = [table.repeat for table in self.recipe.passes]
        scene = Scene(samples, views, [], [], repeats, subjects, self.teacher)
        for number, table in enumerate(self.recipe.passes):
            tokens = views[number].repeated(table.repeat)
            which = () if number == 0 else (2, number)
            guidance = self._guidance(scene, number)
            salience = guidance.salience.cpu() if guidance is not None else None
            mask = self.masks[number].sample(tokens, step_generator(self.recipe.training.seed, step, *which), done, salience)
            visible, hidden = mask.visible.to(device), mask.hidden.to(device)
            factor = visible_scale(tokens, visible)[..., None]
            partners = None
            if "foreign" in table.fill:
                partners = partners_of([s for s in batch.subjects for _ in range(table.repeat)], generator).to(device)
            scaled = replace(tokens, patches=tokens.patches / factor)
            scene.looks.append(self.model.look(number, scaled, visible, hidden, generator, partners))
            scene.factors.append(factor)
        return scene

    def _guidance(self, scene: Scene, number: int) -> Guidance | None:
        """What a teacher of pictures says of the tokens of a pass."""
        if (pictures := self._pictures[0]) is None:
            return None
        view, before = scene.views[number], [n for n in range(number) if scene.views[n] is scene.views[number]]
        if before:  # the same view, looked at again
            said = scene.guidance[before[0]]
        else:
            assert isinstance(self.tokenizer, PointGroups)
            said = pictures.to(view.patches.device)(view, self.tokenizer.untokenize(view.patches, view.coords))
        scene.guidance.append(said)
        return said.repeated(self.recipe.passes[number].repeat)

    def _samples(self, batch: Batch, generator: torch.Generator) -> list[Sample]:
        """What each pass looks at."""
        plain, found = Sample.plain(batch), []
        for table in self.recipe.passes:
            if table.view == "other":
                assert batch.other is not None
                found.append(Sample.plain(batch.other))
            else:
                found.append(resampled(batch, generator, self.tokenizer.least) if table.view == "beams" else plain)
        return found

    def _views(self, samples: Sequence[Sample], device: torch.device, generator: torch.Generator) -> list[TokenSet]:
        """The tokens of each pass."""
        tokens: dict[int, TokenSet] = {}
        for key, sample in {id(sample): sample for sample in samples}.items():
            cut = self.tokenizer.tokenize(sample.batch, device)
            tokens[key] = jittered(cut, self.recipe.position.jitter_m, generator)
        found = []
        for table, sample in zip(self.recipe.passes, samples, strict=True):
            view = tokens[id(sample)]
            if table.view == "style":
                partner = torch.randperm(len(view.patches), generator=generator).to(device)
                view = self.tokenizer.restyle(view, partner)
            found.append(view)
        return found

    def _queries(self, term: TermTable, scene: Scene, generator: torch.Generator) -> Tensor:
        look = scene.looks[term.on]
        size, count = look.tokens.valid.shape
        if term.queries == "next":
            return look.hidden[:, : max(1, round(term.share * look.hidden.shape[1]))]
        if term.queries == "all":
            index = torch.arange(count, device=look.hidden.device).expand(size, -1)
        else:
            index = look.hidden if term.queries == "hidden" else look.visible
        return subset(index, term.share, generator) if term.share < 1 else index

    def _detailed(
        self, score: TermScore, compared: Compared, term: TermTable, distance: nn.Module, scene: Scene, prediction: Prediction
    ) -> TermScore:
        if not compared.target.is_floating_point() or not compared.counts.any():
            return score
        predicted, target = (float(deviation(x.detach().float()[compared.counts])) for x in (compared.predicted, compared.target))
        copy = None
        assert isinstance(distance, Distance)
        measure = distance.elementwise()
        if term.target in ("raw", "patch_norm") and term.queries in ("hidden", "next") and measure is not None:
            copied = self._copied(term, scene, prediction)
            copy = float(mean(measure(copied.float(), compared.target.float()), compared.counts, compared.channels))
        return replace(score, copy=copy, predicted=predicted, target=target, learned=term.target in LEARNED)

    def _copied(self, term: TermTable, scene: Scene, prediction: Prediction) -> Tensor:
        """What copying the nearest visible token would predict at the term's queries."""
        look, factor = scene.looks[term.on], scene.factors[term.on]
        assert prediction.queries is not None
        reach = torch.tensor(self.recipe.position.longest, device=factor.device)
        known, asked = look.tokens.take(look.visible), look.tokens.take(prediction.queries)
        apart = torch.cdist(asked.coords / reach, known.coords / reach)
        nearest = apart.masked_fill(~known.valid[:, None], torch.inf).argmin(-1)
        patches = gather(known.patches, nearest)
        if term.target == "patch_norm":
            return self.tokenizer.normalised(patches.float())
        return patches * gather(gather(factor, look.visible), nearest)


def _gated(term: TermTable, prediction: Prediction) -> Prediction:
    if term.gate == "reverse":
        return replace(prediction, values=reverse(prediction.values, term.gate_scale or 1.0))
    return replace(prediction, values=prediction.values.detach()) if term.gate == "stop" else prediction


def _salient(scene: Scene) -> tuple[float, float]:
    """See ``Scored.salient``."""
    look = scene.looks[0]
    return kept(scene.guidance[0].repeated(scene.repeats[0]).salience, look.visible, look.tokens.valid)


def _rank(scene: Scene) -> float:
    """Effective rank of the states of the first pass's valid tokens."""
    look = scene.looks[0]
    valid = look.tokens.valid if look.index is None else look.tokens.valid.gather(1, look.index)
    states = look.states.last.detach()[valid].float()
    step = max(1, len(states) // RANK_TOKENS)
    return effective_rank(states[::step][:RANK_TOKENS])
