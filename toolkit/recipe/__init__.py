"""Recipes: short strict TOML tables, resolved once before anything is built.

Precedence: recipe < its ``[size.NAME]`` table < its ``[preset.NAME]`` table < ``--set`` < flags. A resolved
:class:`Recipe` is frozen and prints as TOML that reproduces the run.
"""

from __future__ import annotations

import copy
import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from toolkit.errors import UsageError, did_you_mean
from toolkit.recipe.added import appended
from toolkit.recipe.base import Table
from toolkit.recipe.objective import LossTable, MaskTable, PassTable, TeacherTable, TermTable, WaysTable
from toolkit.recipe.recipe import Recipe
from toolkit.recipe.tables import (
    ConvTable,
    DataTable,
    EmbeddingTable,
    EncoderTable,
    PointData,
    PointTokens,
    PositionTable,
    PyramidTable,
    SignalData,
    SignalTokens,
    SpectrogramTokens,
    TransformerTable,
    VolumeData,
    VolumeTokens,
    VoxelTokens,
)

__all__ = [
    "ConvTable",
    "DataTable",
    "EmbeddingTable",
    "EncoderTable",
    "LossTable",
    "MaskTable",
    "PassTable",
    "PointData",
    "PointTokens",
    "PositionTable",
    "PyramidTable",
    "Recipe",
    "SignalData",
    "SignalTokens",
    "SpectrogramTokens",
    "TeacherTable",
    "TermTable",
    "TransformerTable",
    "VolumeData",
    "VolumeTokens",
    "VoxelTokens",
    "WaysTable",
    "build",
    "domains_of",
    "fingerprint",
    "known_keys",
    "names",
    "parse",
    "presets",
    "resolve",
    "sizes",
    "source",
    "to_toml",
]

# An objective's recipe names no data: it is laid over the system of the domain it is run on.
SYSTEMS = {"audio": "bird-mae", "cardiac": "csfm", "eeg": "reve", "mri": "bm-mae", "points": "point-cmae"}


def names() -> list[str]:
    """The recipes that travel with the package."""
    return sorted(entry.name.removesuffix(".toml") for entry in _folder().iterdir() if entry.name.endswith(".toml"))


def sizes(name: str) -> list[str]:
    """The sizes a recipe offers; an objective's are those of the system it is laid over."""
    table = parse(source(name), where=f"recipe '{name}'")
    own = table.get("size", {})
    if "data" not in table and isinstance(own, dict):
        return sizes(SYSTEMS[domains_of(name)[0]])
    return list(own) if isinstance(own, dict) else [own]


def presets(name: str) -> list[str]:
    """The presets a recipe offers: as the released code has it, or the paper, where the two differ."""
    return list(parse(source(name), where=f"recipe '{name}'").get("preset", {}))


def domains_of(name_or_file: str) -> tuple[str, ...]:
    """The domains that a recipe runs on; more than one for an objective, of which each run takes one."""
    return _domains(parse(source(name_or_file), where=f"recipe '{name_or_file}'"), name_or_file)


def _domains(table: Mapping[str, Any], recipe: str) -> tuple[str, ...]:
    found = table.get("domains", list(SYSTEMS))
    if not isinstance(found, list) or not found or not all(isinstance(domain, str) and domain in SYSTEMS for domain in found):
        raise UsageError(f"Recipe '{recipe}': domains is {found!r}, expected one or more of {', '.join(SYSTEMS)}.")
    return tuple(found)


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
    name_or_file: str,
    *,
    size: str | None = None,
    settings: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    domain: str | None = None,
    with_: Sequence[str] = (),
    preset: str | None = None,
) -> Recipe:
    """Build the resolved recipe.

    ``settings`` are ``a.b=value`` strings (values as in TOML, bare words are strings; ``terms.0.weight`` is of the first
    term), ``flags`` maps dotted keys to values; None values are skipped. ``domain`` says which system an objective is
    laid over (default: the first of its domains). ``preset``: a ``[preset.NAME]`` table of the recipe, laid over it after
    the size. ``with_``: objectives whose passes and terms come after its own. Raises UsageError naming key, value and
    expectation.
    """
    table = parse(source(name_or_file), where=f"recipe '{name_or_file}'")
    chosen = _preset(table, name_or_file, preset)
    table = _sized(table, name_or_file, size) if "data" in table else _laid_over(table, name_or_file, size, domain)
    _merge(table, chosen)
    table = _defaulted(table)
    for other in with_:
        build(table, where=f"recipe '{name_or_file}'")  # what is wrong with it is not the other's fault
        table = _added(table, other)
    for setting in settings:
        key, value = _parse_setting(setting)
        if key == "size":
            raise UsageError(f"--set {setting} would only change the name of the size. Choose one with --size {value}.")
        _set(table, key, value, f"--set {setting}")
    for key, value in (flags or {}).items():
        if value is not None:
            _set(table, key, value, key)
    return build(table, where=f"recipe '{name_or_file}'")


def _preset(table: dict[str, Any], recipe: str, preset: str | None) -> dict[str, Any]:
    """The table of a preset, taken out of the recipe's. Raises UsageError."""
    presets = table.pop("preset", {})
    if not isinstance(presets, dict) or not all(isinstance(one, dict) for one in presets.values()):
        raise UsageError(f"Recipe '{recipe}': preset is {presets!r}, expected tables by name.")
    if preset is not None and preset not in presets:
        known = did_you_mean(preset, presets) if presets else "It has none."
        raise UsageError(f"Recipe '{recipe}' has no preset '{preset}'. {known}")
    return presets[preset] if preset is not None else {}


def _sized(table: dict[str, Any], recipe: str, size: str | None) -> dict[str, Any]:
    """A recipe with the table of one of its sizes laid over it."""
    sizes = table.pop("size", None)
    table["size"] = sizes if isinstance(sizes, str) else "default"
    if size is None or size == table["size"]:
        return table
    if not isinstance(sizes, dict) or size not in sizes:
        known = list(sizes) if isinstance(sizes, dict) else [table["size"]]
        raise UsageError(f"Recipe '{recipe}' has no size '{size}'. {did_you_mean(size, known)}")
    if not isinstance(sizes[size], dict):
        raise UsageError(f"Recipe '{recipe}': size.{size} is {sizes[size]!r}, expected a table.")
    _merge(table, sizes[size])
    return table | {"size": size}


def _laid_over(table: dict[str, Any], recipe: str, size: str | None, domain: str | None) -> dict[str, Any]:
    """An objective over the system of a domain: its tables win, key by key; passes, terms and teacher are its own."""
    domains = _domains(table, recipe)
    domain = domain or domains[0]
    if domain not in domains:
        raise UsageError(f"Recipe '{recipe}' does not run on domain '{domain}', but on {', '.join(domains)}.")
    system = SYSTEMS[domain]
    below = parse(source(system), where=f"recipe '{system}'")
    below.pop("preset", None)
    named = {"domain": domains, "size": tuple(below["size"])}
    whole = _sized(below, system, size)
    for key in ("passes", "terms", "teacher"):
        whole.pop(key, None)
    for layer in _layers(table, recipe, named, domain, whole["size"]):
        _merge(whole, layer)
    return whole | {"domains": [domain]}


def _layers(
    table: dict[str, Any], recipe: str, named: Mapping[str, Sequence[str]], domain: str, size: str
) -> list[Mapping[str, Any]]:
    """An objective's own table, then what it has for this domain and for this size; ``named`` are those there are."""
    sizes, by_domain = table.pop("size", {}), table.pop("domain", {})
    for where, layers in (("domain", by_domain), ("size", sizes)):
        if not isinstance(layers, dict) or not all(isinstance(layer, dict) for layer in layers.values()):
            raise UsageError(f"Recipe '{recipe}': {where} is {layers!r}, expected tables by name of the {where}.")
        for name in layers:
            if name not in named[where]:
                raise UsageError(f"Recipe '{recipe}': there is no {where} '{name}'. {did_you_mean(name, named[where])}")
    return [table, by_domain.get(domain, {}), sizes.get(size, {})]


def _added(table: dict[str, Any], other: str) -> dict[str, Any]:
    """A recipe's table with the passes and terms of an objective after its own."""
    own, domain = parse(source(other), where=f"recipe '{other}'"), table["domains"][0]
    own.pop("preset", None)
    if "data" in own:
        raise UsageError(f"Recipe '{other}' is a system with data and a model of its own; --with takes an objective.")
    named = {"domain": _domains(own, other), "size": sizes(other)}
    size = table["size"] if table["size"] in named["size"] else None
    alone = _defaulted(_laid_over(copy.deepcopy(own), other, size, domain))
    build(alone, where=f"recipe '{other}'")
    whole: dict[str, Any] = {}
    for layer in _layers(own, other, named, domain, table["size"]):
        _merge(whole, layer)
    return appended(table, _defaulted(whole) | {"mask": alone["mask"]})


def _defaulted(table: dict[str, Any]) -> dict[str, Any]:
    """The table with the passes and terms that it leaves out, so that they can be set, too."""
    for key in ("passes", "terms"):
        table.setdefault(key, [one.model_dump(exclude_unset=True) for one in Recipe.model_fields[key].default])
    return table


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
    """Lay one table over another, key by key; a table of another ``kind``, and odds (``ways``), replace the old ones whole."""
    for key, value in override.items():
        old = into.get(key)
        if isinstance(value, Mapping) and isinstance(old, dict) and key != "ways":
            if "kind" in value and value["kind"] != old.get("kind") and key in ("tokenizer", "encoder"):
                into[key] = dict(value)
            else:
                _merge(old, value)
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
    inner: Any = table
    *parents, last = dotted.split(".")
    for parent in parents:
        inner = inner[_place(inner, parent, where)] if isinstance(inner, list) else inner.setdefault(parent, {})
        if not isinstance(inner, (dict, list)):
            raise UsageError(f"{where}: '{parent}' is a value, not a table.")
    inner[_place(inner, last, where) if isinstance(inner, list) else last] = value


def _place(tables: list[Any], key: str, where: str) -> int:
    if not key.isdecimal() or int(key) >= len(tables):
        raise UsageError(f"{where}: '{key}' stands for one of {len(tables)} tables, expected a number from 0 on.")
    return int(key)


def _explain(error: Any) -> str:
    where = error["loc"]
    if error["type"] == "union_tag_invalid":
        field = "axes" if where[0] == "data" else "kind"
        return f"Key '{where[0]}.{field}': got {error['ctx']['tag']!r}, expected {error['ctx']['expected_tags']}."
    if where[:1] in (("data",), ("tokenizer",), ("encoder",)) and len(where) > 1:
        where = (where[0], *where[2:])  # between them stands which of the tables it was taken for
    key = ".".join(str(part) for part in where)
    if error["type"] == "extra_forbidden":
        if key in known_keys():
            return f"Key '{key}' (value {error['input']!r}) belongs to another kind of {where[0]} than the one chosen."
        return f"Unknown key '{key}' (value {error['input']!r}). {did_you_mean(key, known_keys())}"
    if error["type"] == "missing":
        return f"Key '{key}' is missing."
    if error["type"] == "value_error":
        sentence = str(error["ctx"]["error"])
        return sentence if sentence.endswith(("?", ".")) else sentence + "."
    return f"Key '{key}': {error['msg'][:1].lower()}{error['msg'][1:]}, got {error['input']!r}."


def known_keys(table: type[BaseModel] = Recipe, prefix: str = "") -> list[str]:
    """Every dotted key a recipe may hold; ``terms.0.weight`` is written ``terms.weight``."""
    keys: dict[str, None] = {}  # in order; tables that stand in for one another share keys
    for name, info in table.model_fields.items():
        inner = [t for t in _alternatives(info.annotation) if isinstance(t, type) and issubclass(t, Table)]
        for one in inner:
            keys |= dict.fromkeys(known_keys(one, f"{prefix}{name}."))
        if not inner:
            keys[prefix + name] = None
    return list(keys)


def _alternatives(annotation: Any) -> list[Any]:
    """The types of a union, tagged or not, or of a tuple's items; of anything else, itself."""
    parts = [get_args(t)[0] if hasattr(t, "__metadata__") else t for t in get_args(annotation)]
    return parts or [annotation]


def to_toml(recipe: Recipe) -> str:
    """The recipe as TOML; :func:`build` of the parsed text gives an equal recipe. Options that were not chosen are left out."""
    plain = recipe.model_dump(mode="json", exclude_none=True)
    lines = [f"{k} = {_value(v)}" for k, v in plain.items() if not _is_tables(v)]
    for name, value in plain.items():
        if isinstance(value, dict):
            lines += ["", f"[{name}]"] + [f"{k} = {_value(v)}" for k, v in value.items()]
        elif _is_tables(value):
            for table in value:
                lines += ["", f"[[{name}]]"] + [f"{k} = {_value(v)}" for k, v in table.items()]
    return "\n".join(lines) + "\n"


def _is_tables(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and bool(value) and isinstance(value[0], dict))


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {_value(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_value(v) for v in value) + "]"
    # Strings, numbers and booleans read the same in TOML; it wants DEL escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def fingerprint(recipe: Recipe) -> str:
    """Hash of the resolved recipe, first 16 hex digits of SHA-256."""
    return hashlib.sha256(to_toml(recipe).encode()).hexdigest()[:16]
