"""Recipes: short strict TOML tables, resolved once before anything is built.

Precedence: recipe < its ``[size.NAME]`` table < ``--set`` < flags. A resolved :class:`Recipe` is frozen
and prints as TOML that reproduces the run.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from toolkit.errors import UsageError, did_you_mean

Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Periods = tuple[PositiveFloat, PositiveFloat, PositiveFloat, PositiveFloat]


class Table(BaseModel):
    """A strict TOML table: unknown keys and wrong types are errors; frozen once built."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _integers_are_numbers(cls, table: Any) -> Any:
        # TOML writes 250 where a float is meant, and has lists where the model keeps tuples.
        if not isinstance(table, dict):
            return table
        wants_float = {k for k, f in cls.model_fields.items() if f.annotation is float}
        return {k: float(v) if k in wants_float and type(v) is int else _as_tuple(v) for k, v in table.items()}


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(v) for v in value) if isinstance(value, list) else value


class DataTable(Table):
    """Which samples the model sees: channel kinds, the grid they are brought to, and their scaling.

    ``most_channels`` is how many channels of a recording a training sample takes; embedding takes all.
    """

    kinds: tuple[str, ...]
    rate_hz: PositiveFloat
    window_s: PositiveFloat
    scaling: Literal["kind", "channel"] = "kind"
    most_channels: Positive = 16


class TokenizerTable(Table):
    """Signal patches: samples a patch, the channels with an identity of their own, slots for unknown ones."""

    patch: Positive
    channels: tuple[str, ...]
    unknown_channels: Positive = 4


class PositionTable(Table):
    """Longest and shortest period of the position code on each axis (x, y, z, t), in the axis's unit."""

    bands: Positive = 8
    longest: Periods
    shortest: Periods
    rotary: bool = True


class TransformerTable(Table):
    """A stack of pre-norm transformer blocks."""

    width: Positive
    depth: Positive
    heads: Positive
    head_width: Positive
    mlp: Positive


class MaskTable(Table):
    """What is hidden. ``spans``, ``gaps`` and ``groups`` are the odds of the three ways to hide.

    ``groups_of_channels`` are hidden together: what one of them lacks the others would give away.
    """

    ratio: Share
    spans: Annotated[float, Field(ge=0)] = 1.0
    gaps: Annotated[float, Field(ge=0)] = 1.0
    groups: Annotated[float, Field(ge=0)] = 1.0
    span_patches: tuple[int, int]
    groups_of_channels: tuple[tuple[str, ...], ...] = ()


class LossTable(Table):
    """The distance between predicted and true patches, on hidden patches only."""

    kind: Literal["l1", "l2", "smooth_l1"]


class EmbeddingTable(Table):
    """What ``embed`` takes from the encoder: the layer (from the end, -1 the last) and the pooling."""

    layer: int = -1
    pool: Literal["mean", "max", "meanstd", "meanmax"] = "mean"


class OptimizerTable(Table):
    """AdamW with warm-up and cosine decay."""

    learning_rate: PositiveFloat
    final_share: Share = 0.01
    warmup_share: Share = 0.1
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    clip_norm: PositiveFloat = 1.0


class TrainingTable(Table):
    """The loop: steps, samples a step, seed, and every how many steps it logs and saves."""

    steps: Positive
    batch_size: Positive
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    log_every: Positive = 10
    checkpoint_every: Positive = 200


class Recipe(Table):
    """One resolved system: everything a run needs besides data, device and output."""

    name: str
    domains: tuple[str, ...]
    backend: Literal["vit"]
    objective: Literal["mae"]
    paper: str
    size: str
    data: DataTable
    tokenizer: TokenizerTable
    position: PositionTable
    encoder: TransformerTable
    decoder: TransformerTable
    mask: MaskTable
    loss: LossTable
    embedding: EmbeddingTable = EmbeddingTable()
    optimizer: OptimizerTable
    training: TrainingTable

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        samples = self.data.rate_hz * self.data.window_s
        if abs(samples / self.tokenizer.patch - round(samples / self.tokenizer.patch)) > 1e-9:
            raise ValueError(
                f"data.window_s: {self.data.window_s} s at {self.data.rate_hz} Hz is {samples:g} samples, "
                f"not a multiple of tokenizer.patch = {self.tokenizer.patch} samples"
            )
        for which, part in (("encoder", self.encoder), ("decoder", self.decoder)):
            if part.head_width % 2:
                raise ValueError(f"{which}.head_width: {part.head_width} is odd; rotary positions turn pairs")
        if not -self.encoder.depth - 1 <= self.embedding.layer <= -1:
            raise ValueError(
                f"embedding.layer: got {self.embedding.layer}, expected -1 (the last) to {-self.encoder.depth - 1} "
                f"(before the first of {self.encoder.depth} blocks)"
            )
        low, high = self.mask.span_patches
        if not 1 <= low <= high:
            raise ValueError(f"mask.span_patches: got [{low}, {high}], expected 1 <= shortest <= longest")
        for name in (n for group in self.mask.groups_of_channels for n in group):
            if name not in self.tokenizer.channels:
                raise ValueError(
                    f"mask.groups_of_channels: '{name}' is not in tokenizer.channels. "
                    f"{did_you_mean(name, self.tokenizer.channels)[:-1]}"
                )
        if self.mask.spans + self.mask.gaps + self.mask.groups == 0:
            raise ValueError("mask: spans, gaps and groups are all 0; nothing says how to hide")
        return self

    @property
    def window_samples(self) -> int:
        """Samples of one window on the model's grid."""
        return round(self.data.rate_hz * self.data.window_s)


def names() -> list[str]:
    """The recipes that travel with the package."""
    return sorted(entry.name.removesuffix(".toml") for entry in _folder().iterdir() if entry.name.endswith(".toml"))


def sizes(name: str) -> list[str]:
    """The sizes a recipe offers."""
    table = parse(source(name), where=f"recipe '{name}'").get("size", {})
    return list(table) if isinstance(table, dict) else [table]


def source(name_or_file: str) -> str:
    """The TOML text of a recipe by name or of a recipe file. Raises UsageError."""
    path = Path(name_or_file)
    if path.suffix == ".toml":
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as problem:
            raise UsageError(f"Recipe file '{path}' cannot be read: {problem}.") from None
    if name_or_file not in names():
        raise UsageError(
            f"There is no recipe '{name_or_file}'. {did_you_mean(name_or_file, names())} "
            "`toolkit recipes ls` lists them; a file is given by a path that ends in .toml."
        )
    return (_folder() / f"{name_or_file}.toml").read_text(encoding="utf-8")


def _folder() -> Any:
    return resources.files("recipes")


def resolve(
    name_or_file: str, *, size: str | None = None, settings: Sequence[str] = (), flags: Mapping[str, Any] | None = None
) -> Recipe:
    """Build the resolved recipe.

    ``settings`` are ``a.b=value`` strings (values as in TOML, bare words are strings), ``flags`` maps
    dotted keys to values; None values are skipped. Raises UsageError naming key, value and expectation.
    """
    table = parse(source(name_or_file), where=f"recipe '{name_or_file}'")
    sizes = table.pop("size", None)
    table["size"] = sizes if isinstance(sizes, str) else "default"
    if size is not None and size != table["size"]:
        if not isinstance(sizes, dict) or size not in sizes:
            known = list(sizes) if isinstance(sizes, dict) else [table["size"]]
            raise UsageError(f"Recipe '{name_or_file}' has no size '{size}'. {did_you_mean(size, known)}")
        if not isinstance(sizes[size], dict):
            raise UsageError(f"Recipe '{name_or_file}': size.{size} is {sizes[size]!r}, expected a table.")
        _merge(table, sizes[size])
        table["size"] = size
    for setting in settings:
        key, value = _parse_setting(setting)
        if key == "size":
            raise UsageError(f"--set {setting} would only change the name of the size. Choose one with --size {value}.")
        _set(table, key, value, f"--set {setting}")
    for key, value in (flags or {}).items():
        if value is not None:
            _set(table, key, value, key)
    return build(table, where=f"recipe '{name_or_file}'")


def parse(text: str, *, where: str) -> dict[str, Any]:
    """TOML text to a table. Raises UsageError."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as problem:
        raise UsageError(f"{where} is not valid TOML: {problem}.") from None


def build(table: Mapping[str, Any], *, where: str) -> Recipe:
    """Validate a table. Raises UsageError with one sentence a problem."""
    try:
        return Recipe.model_validate(dict(table))
    except ValidationError as problem:
        lines = [_explain(error) for error in problem.errors()]
        raise UsageError(f"{where}: " + " ".join(dict.fromkeys(lines))) from None


def _merge(into: dict[str, Any], override: Mapping[str, Any]) -> None:
    for key, value in override.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _parse_setting(setting: str) -> tuple[str, Any]:
    key, equals, text = setting.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--set takes KEY=VALUE, got '{setting}'. Example: --set training.steps=500")
    try:
        return key.strip(), tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return key.strip(), text.strip()


def _set(table: dict[str, Any], dotted: str, value: Any, where: str) -> None:
    *parents, last = dotted.split(".")
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise UsageError(f"{where}: '{parent}' is a value, not a table.")
    table[last] = value


def _explain(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"Unknown key '{key}' (value {error['input']!r}). {did_you_mean(key, known_keys())}"
    if error["type"] == "missing":
        return f"Key '{key}' is missing."
    if error["type"] == "value_error":
        return str(error["ctx"]["error"]) + "."
    return f"Key '{key}': {error['msg'][:1].lower()}{error['msg'][1:]}, got {error['input']!r}."


def known_keys(table: type[BaseModel] = Recipe, prefix: str = "") -> list[str]:
    """Every dotted key a recipe may hold."""
    keys = []
    for name, info in table.model_fields.items():
        inner = info.annotation
        if isinstance(inner, type) and issubclass(inner, Table):
            keys += known_keys(inner, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys


def to_toml(recipe: Recipe) -> str:
    """The recipe as TOML; :func:`build` of the parsed text gives an equal recipe."""
    plain = recipe.model_dump(mode="json")
    lines = [f"{k} = {_value(v)}" for k, v in plain.items() if not isinstance(v, dict)]
    for name, table in plain.items():
        if isinstance(table, dict):
            lines += ["", f"[{name}]"] + [f"{k} = {_value(v)}" for k, v in table.items()]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    # Strings, numbers, booleans and nested lists read the same in TOML; it wants DEL escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def fingerprint(recipe: Recipe) -> str:
    """Hash of the resolved recipe, first 16 hex digits of SHA-256."""
    return hashlib.sha256(to_toml(recipe).encode()).hexdigest()[:16]
