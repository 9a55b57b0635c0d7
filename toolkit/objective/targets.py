"""Targets: what predictions are compared with. Each knows what its prediction must be made into first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from toolkit.model.branch import Prediction
from toolkit.model.masked import DEFAULT_CODES, DEFAULT_LEVELS
from toolkit.model.pooling import mean
from toolkit.model.positions import FourierPositions
from toolkit.model.tokenizers.base import Tokenizer
from toolkit.model.tokenizers.descriptors import DESCRIPTOR
from toolkit.model.tokens import TokenSet, gather, placed
from toolkit.objective.codes import KMeans, ResidualCodes
from toolkit.objective.scene import Scene
from toolkit.objective.teacher import Pair
from toolkit.recipe import Recipe, TermTable

FIT_ROWS = 20_000  # patches that targets are fitted on
LEAST_DEVIATION = 1e-3  # of a component of the spectrum that hardly varies
PROJECTED = 128  # width of what BYOL-like terms compare


@dataclass(frozen=True)
class Compared:
    """``predicted`` and ``target`` (B, q, ...), and which of them count, bool (B, q).

    ``zero``: predicting zero is the trivial level (the channel's mean, in its scale), else predicting the targets' mean.
    ``channels`` int64 (B, q): where losses are means of each, summed over them.
    """

    predicted: Tensor
    target: Tensor
    counts: Tensor
    zero: bool = False
    channels: Tensor | None = None


class Target(nn.Module):
    """What a term compares with; calling it gives prediction and target side by side."""

    def __init__(self, term: TermTable) -> None:
        super().__init__()
        self.term = term

    def forward(self, scene: Scene, prediction: Prediction, others: dict[str, Prediction]) -> Compared:
        """``others``: the predictions of all terms, by name."""
        raise NotImplementedError

    def channels(self, tokens: TokenSet, queries: Tensor) -> Tensor | None:
        """The queries' channels by number, where the term's loss is summed over them."""
        return tokens.channel.gather(1, queries) if self.term.sum_channels else None

    def followed(self) -> Sequence[Pair]:
        """Modules of the target that follow ones that learn."""
        return ()

    @property
    def fitted(self) -> bool:
        """Whether the target knows what it needs to know of the data."""
        return True

    def fit(self, tokens: Sequence[TokenSet], generator: torch.Generator) -> None:
        """Learn from some batches what the target needs to know of the data."""


def counted(tokens: TokenSet, queries: Tensor) -> Tensor:
    """Which queries are valid tokens."""
    return tokens.valid.gather(1, queries)


class Patches(Target):
    """The patches themselves, in the data's scale."""

    def forward(self, scene: Scene, prediction: Prediction, others: dict[str, Prediction]) -> Compared:
        """See :class:`Target`."""
        look, queries = scene.looks[self.term.on], _places(prediction)
        unit = gather(scene.factors[self.term.on], queries)
        target = gather(look.tokens.patches, queries) * unit
        channels = self.channels(look.tokens, queries)
        return Compared(prediction.values * unit, target, counted(look.tokens, queries), zero=True, channels=channels)


class Computed(Target):
    """Numbers computed from each patch: its normalised samples (MAE), its changes (MME). Zero is no more than a mean."""

    def __init__(self, term: TermTable, compute: Callable[[Tensor], Tensor]) -> None:
        super().__init__(term)
        self.compute = compute

    def forward(self, scene: Scene, prediction: Prediction, others: dict[str, Prediction]) -> Compared:
        """See :class:`Target`."""
        look, queries = scene.looks[self.term.on], _places(prediction)
        target = self.compute(gather(look.tokens.patches, queries).float())
        channels = self.channels(look.tokens, queries)
        return Compared(prediction.values, target, counted(look.tokens, queries), zero=True, channels=channels)


class Spectrum(Target):
    """The spectrum of each patch, each component less its mean over and by its deviation in the data (after MME's HOG)."""

    mean: Tensor
    deviation: Tensor
    known: Tensor

    def __init__(self, term: TermTable, tokenizer: Tokenizer) -> None:
        super().__init__(term)
        self.spectrum = tokenizer.spectrum
        self.register_buffer("mean", torch.zeros(tokenizer.spectrum_size))
        self.register_buffer("deviation", torch.ones(tokenizer.spectrum_size))
        self.register_buffer("known", torch.tensor(False))

    @property
    def fitted(self) -> bool:
        """See :class:`Target`."""
        return bool(self.known)

    def fit(self, tokens: Sequence[TokenSet], generator: torch.Generator) -> None:
        """See :class:`Target`."""
        spread, mean = torch.std_mean(spectra(self.spectrum, tokens), 0, correction=0)
        self.mean.copy_(mean)
        self.deviation.copy_(spread.clamp(min=LEAST_DEVIATION))
        self.known.fill_(True)

    def forward(self, scene: Scene, prediction: Prediction, others: dict[str, Prediction]) -> Compared:
        """See :class:`Target`."""
        look, queries = scene.looks[self.term.on], _places(prediction)
        patches = gather(look.tokens.patches * scene.factors[self.term.on], queries)
        target = (self.spectrum(patches.float()) - self.mean) / self.deviation
        return Compared(prediction.values, target, counted(look.tokens, queries), zero=True)


class Latent(Target):
    """The teacher's states: the mean of its last ``layers``, each normalised (data2vec, 2202.03555; I-JEPA, 2301.08243; CAE).

    ``norm``: ``instance`` over the sample's tokens, ``layer`` over the features of each token, ``none``. A prediction of
    another width than the teacher's passes a linear layer first.
    """

    def __init__(self, term: TermTable, width: int, teacher_width: int) -> None:
        super().__init__(term)
        self.adapt = nn.Linear(width, teacher_width) if width != teacher_width else nn.Identity()

    def forward(self, scene: Scene, prediction: Prediction, others: dict[str, Prediction]) -> Compared:
        """See :class:`Target`."""
        number = self.term.on if self.term.truth is None else self.term.truth
        look, queries = scene.looks[number], _places(prediction)
        hidden_only = self.term.sees == "hidden"
        states = scene.taught(number, hidden_only=hidden_only)
        count = min(self.term.layers or 1, len(states.layers))
        layers = [states.last] if count == 1 else list(states.layers[-count:])
        target = torch.stack([_normed(layer.float(), self.term.norm or "layer") for layer in layers]).mean(0)
        if hidden_only:
            target = placed(target, look.hidden, look.tokens.valid.shape[1])
        return Compared(self.adapt(prediction.values), gather(target, queries), counted(look.tokens, queries))


class Pooled(Target):
    """The teacher's projected mean state of a whole view (BYOL, 2006.07733): the online side predicts it by an MLP more."""

    def __init__(self, term: TermTable, width: int, teacher_width: int) -> None:
        super().__init__(term)
        self.project, self.predict = _mlp(width, PROJECTED), _mlp(PROJECTED, PROJECTED)
        self.follows = _mlp(teacher_width, PROJECTED).requires_grad_(False)
        if width == teacher_width:
            self.follows.load_state_dict(self.project.state_dict())

    def forward(self, scene: Scene, prediction: Prediction, others: dict[str, Prediction]) -> Compared:
        """See :class:`Target`."""
        number = self.term.on if self.term.truth is None else self.term.truth
        states, valid = scene.taught(number).last, scene.looks[number].tokens.valid
        with torch.no_grad():
            target = self.follows(mean(states, valid))
        predicted = self.predict(self.project(prediction.values))
        return Compared(predicted[:, None], target[:, None], valid.any(1, keepdim=True))

    def followed(self) -> Sequence[Pair]:
        """The projection that the teacher's side uses follows the online one."""
        return ((self.project, self.follows),)


class Content(Target):
    """A learned embedding of each token's own patch, which says nothing of its place (Selfie, 1906.02940; SIGMA's MLP)."""

    def __init__(self, term: TermTable, width: int, tokenizer: Tokenizer) -> None:
        super().__init__(term)
        self.embed = nn.Sequential(tokenizer.embedder(width), nn.GELU(), nn.Linear(width, width))

    def forward(self, scene: Scene, prediction: Prediction, others: dict[str, Prediction]) -> Compared:
        """See :class:`Target`."""
        look, queries = scene.looks[self.term.on], _places(prediction)
        target = self.embed(gather(look.tokens.patches, queries))
        return Compared(prediction.values, target, counted(look.tokens, queries))


class Coordinate(Target):
    """A learned embedding of each token's coordinates and channel: finding one's own among the sample's tells one's place.

    MP3 (2207.07611) classifies into fixed places; matching takes any number of them.
    """

    def __init__(self, term: TermTable, recipe: Recipe) -> None:
        super().__init__(term)
        width = recipe.encoder.width
        self.position, self.channel = FourierPositions(recipe.position, width), nn.Linear(DESCRIPTOR, width)
        self.mix = nn.Sequential(nn.GELU(), nn.Linear(width, width))

    def forward(self, scene: Scene, prediction: Prediction, others: dict[str, Prediction]) -> Compared:
        """See :class:`Target`."""
        look, queries = scene.looks[self.term.on], _places(prediction)
        at = look.tokens.take(queries)
        return Compared(prediction.values, self.mix(self.position(at.coords) + self.channel(at.descriptor)), at.valid)


class Codes(Target):
    """Codes of each patch's spectrum, fitted before training and stored with the run: k-means as in HuBERT (2106.07447),
    or residual codebooks as in MuQ (2501.01108; there a small network is trained on mel spectra, here k-means)."""

    def __init__(self, term: TermTable, tokenizer: Tokenizer) -> None:
        super().__init__(term)
        self.spectrum, self.codes = tokenizer.spectrum, term.codes or DEFAULT_CODES
        self.book: KMeans | ResidualCodes
        if term.target == "codes":
            self.book = KMeans(tokenizer.spectrum_size, self.codes)
        else:
            self.book = ResidualCodes(tokenizer.spectrum_size, self.codes, term.levels or DEFAULT_LEVELS)

    @property
    def fitted(self) -> bool:
        """See :class:`Target`."""
        return bool(self.book.fitted)

    def fit(self, tokens: Sequence[TokenSet], generator: torch.Generator) -> None:
        """See :class:`Target`."""
        self.book.fit(spectra(self.spectrum, tokens), generator)

    def forward(self, scene: Scene, prediction: Prediction, others: dict[str, Prediction]) -> Compared:
        """See :class:`Target`."""
        number, queries = self.term.on, _places(prediction)
        look = scene.looks[number]
        patches = gather(look.tokens.patches * scene.factors[number], queries)
        codes = self.book(self.spectrum(patches.float()))
        codes = codes if codes.ndim == 3 else codes[..., None]  # (B, q, levels)
        return Compared(prediction.values.unflatten(-1, (-1, self.codes)), codes, counted(look.tokens, queries))


class Twin(Target):
    """Another term's prediction of the same tokens, where both hid them (Point-CMAE, 2407.05862)."""

    def forward(self, scene: Scene, prediction: Prediction, others: dict[str, Prediction]) -> Compared:
        """See :class:`Target`."""
        twin, tokens = others[self.term.twin or ""], scene.looks[self.term.on].tokens
        (first, in_first), (second, in_second) = (self._placed(each, tokens) for each in (prediction, twin))
        return Compared(first, second, in_first & in_second)

    def _placed(self, prediction: Prediction, tokens: TokenSet) -> tuple[Tensor, Tensor]:
        queries = _places(prediction)
        return placed(prediction.states, queries, tokens.valid.shape[1]), tokens.shown(queries)


class Subject(Target):
    """Whose recording it is, by a linear layer on the pooled state (FMAE-IAT, 2407.11243)."""

    def __init__(self, term: TermTable, width: int, subjects: int) -> None:
        super().__init__(term)
        self.classify = nn.Linear(width, max(2, subjects))
        self.rate = term.rate or 1.0

    def forward(self, scene: Scene, prediction: Prediction, others: dict[str, Prediction]) -> Compared:
        """See :class:`Target`."""
        who = scene.subjects.repeat_interleave(scene.repeats[self.term.on])
        logits = self.classify(prediction.values)
        return Compared(logits[:, None, None], who[:, None, None], torch.ones_like(who, dtype=torch.bool)[:, None])


class Box(Target):
    """The box around the cluster that a token lies in, of the whole cloud as the view turned and scaled it (PSA-SSL, 2503.13914).

    Lengths are in the unit in which the model sees the cloud. Tokens in no cluster do not count.
    """

    def forward(self, scene: Scene, prediction: Prediction, others: dict[str, Prediction]) -> Compared:
        """See :class:`Target`."""
        queries = _places(prediction)
        at = scene.looks[self.term.on].tokens.take(queries)
        target, inside = scene.boxes(self.term.on, at.coords[..., :3])
        return Compared(prediction.values, target, at.valid & inside)


class View(Target):
    """The projected mean state of another pass by the encoder that learns, not by a teacher (SimCLR, 2002.05709).

    One direction of SimCLR's loss, which has both: the gradient goes to both sides.
    """

    def __init__(self, term: TermTable, width: int) -> None:
        super().__init__(term)
        self.project = _mlp(width, PROJECTED)

    def forward(self, scene: Scene, prediction: Prediction, others: dict[str, Prediction]) -> Compared:
        """See :class:`Target`."""
        memory = scene.looks[self.term.truth or 0].memory()
        other = mean(memory.states.last, memory.tokens.valid)
        both = (self.project(each)[:, None] for each in (prediction.values, other))
        predicted, target = both
        return Compared(predicted, target, memory.tokens.valid.any(1, keepdim=True))


class Image(Target):
    """What a teacher of pictures says of each token, by its views of the cloud (I2P-MAE, 2212.06785).

    ``norm``: as for :class:`Latent`. A linear layer brings predictions to the teacher's width.
    """

    def __init__(self, term: TermTable, width: int, teacher_width: int) -> None:
        super().__init__(term)
        self.adapt = nn.Linear(width, teacher_width)

    def forward(self, scene: Scene, prediction: Prediction, others: dict[str, Prediction]) -> Compared:
        """See :class:`Target`."""
        number, queries = self.term.on, _places(prediction)
        said = _normed(scene.guidance[number].repeated(scene.repeats[number]).features, self.term.norm or "layer")
        return Compared(self.adapt(prediction.values), gather(said, queries), counted(scene.looks[number].tokens, queries))


class Nothing(Target):
    """No target: the loss is of the pooled states alone."""

    def forward(self, scene: Scene, prediction: Prediction, others: dict[str, Prediction]) -> Compared:
        """See :class:`Target`."""
        z = prediction.values[:, None]
        return Compared(z, z.detach(), scene.looks[self.term.on].tokens.valid.any(1, keepdim=True))


def build(recipe: Recipe, term: TermTable, tokenizer: Tokenizer, subjects: int, teacher_width: int) -> Target:
    """The target that a term asks for."""
    width = recipe.encoder.width
    made: dict[str, Callable[[], Target]] = {
        "raw": lambda: Patches(term),
        "patch_norm": lambda: Computed(term, tokenizer.normalised),
        "spectrum": lambda: Spectrum(term, tokenizer),
        "change": lambda: Computed(term, tokenizer.changes),
        "codes": lambda: Codes(term, tokenizer),
        "residual_codes": lambda: Codes(term, tokenizer),
        "latent": lambda: Latent(term, width, teacher_width),
        "pooled": lambda: Pooled(term, width, teacher_width),
        "content": lambda: Content(term, width, tokenizer),
        "coordinate": lambda: Coordinate(term, recipe),
        "twin": lambda: Twin(term),
        "subject": lambda: Subject(term, width, subjects),
        "box": lambda: Box(term),
        "view": lambda: View(term, width),
        "image": lambda: Image(term, width, teacher_width),
        "none": lambda: Nothing(term),
    }
    return made[term.target]()


def spectra(spectrum: Callable[[Tensor], Tensor], tokens: Sequence[TokenSet]) -> Tensor:
    """Spectra of the valid patches of some batches, evenly chosen where there are many, (n, S)."""
    patches = torch.cat([each.patches[each.valid] for each in tokens])
    return spectrum(patches[:: -(-len(patches) // FIT_ROWS)].float()[None])[0]


def _places(prediction: Prediction) -> Tensor:
    assert prediction.queries is not None
    return prediction.queries


def _normed(states: Tensor, kind: str) -> Tensor:
    if kind == "instance":  # each feature over the tokens of the sample
        return functional.instance_norm(states.mT).mT
    return functional.layer_norm(states, states.shape[-1:]) if kind == "layer" else states


def _mlp(width: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 2 * out), nn.LayerNorm(2 * out), nn.GELU(), nn.Linear(2 * out, out))
