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
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from toolkit.errors import UsageError, did_you_mean
from toolkit.recipe.tables import (
    DataTable,
    EmbeddingTable,
    MaskTable,
    PointData,
    PointTokens,
    PositionTable,
    Recipe,
    SignalData,
    SignalTokens,
    SpectrogramTokens,
    Table,
    TransformerTable,
    VolumeData,
    VolumeTokens,
)

__all__ = [
    "DataTable",
    "EmbeddingTable",
    "MaskTable",
    "PointData",
    "PointTokens",
    "PositionTable",
    "Recipe",
    "SignalData",
    "SignalTokens",
    "SpectrogramTokens",
    "TransformerTable",
    "VolumeData",
    "VolumeTokens",
    "build",
    "fingerprint",
    "known_keys",
    "names",
    "parse",
    "resolve",
    "sizes",
    "source",
    "to_toml",
]


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
    where = error["loc"]
    if error["type"] == "union_tag_invalid":
        field = {"data": "axes", "tokenizer": "kind"}[where[0]]
        return f"Key '{where[0]}.{field}': got {error['ctx']['tag']!r}, expected {error['ctx']['expected_tags']}."
    if where[:1] in (("data",), ("tokenizer",)) and len(where) > 1:
        where = (where[0], *where[2:])  # between them stands which of the tables it was taken for
    key = ".".join(str(part) for part in where)
    if error["type"] == "extra_forbidden":
        return f"Unknown key '{key}' (value {error['input']!r}). {did_you_mean(key, known_keys())}"
    if error["type"] == "missing":
        return f"Key '{key}' is missing."
    if error["type"] == "value_error":
        return str(error["ctx"]["error"]) + "."
    return f"Key '{key}': {error['msg'][:1].lower()}{error['msg'][1:]}, got {error['input']!r}."


def known_keys(table: type[BaseModel] = Recipe, prefix: str = "") -> list[str]:
    """Every dotted key a recipe may hold."""
    keys: dict[str, None] = {}  # in order; tables that stand in for one another share keys
    for name, info in table.model_fields.items():
        inner = [t for t in _alternatives(info.annotation) if isinstance(t, type) and issubclass(t, Table)]
        for one in inner:
            keys |= dict.fromkeys(known_keys(one, f"{prefix}{name}."))
        if not inner:
            keys[prefix + name] = None
    return list(keys)


def _alternatives(annotation: Any) -> list[Any]:
    """The types of a union, tagged or not; of anything else, itself."""
    parts = [get_args(t)[0] if hasattr(t, "__metadata__") else t for t in get_args(annotation)]
    return parts or [annotation]


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
