"""From a released file to a model of ours: reading it, recognising its layout, converting it, and accounting for it."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from toolkit import recipe as recipes
from toolkit.errors import UsageError
from toolkit.model import masked
from toolkit.published.base import Release, Transfer
from toolkit.recipe import Recipe

WRAPPERS = ("state_dict", "model_state_dict", "model", "base_model", "net", "network_weights", "module", "teacher", "student")
NAMED = 3  # tensors named in a message


@dataclass(frozen=True)
class Converted:
    """A release as a model of ours. ``untrained``: why it cannot restore; nothing where it can.

    ``ledger``: ``used`` (ours, theirs, shape), ``skipped`` (theirs, shape, reason), ``missing`` (ours, shape, reason).
    """

    recipe: Recipe
    tensors: dict[str, Tensor]
    ledger: dict[str, list[dict[str, Any]]]
    untrained: str


@dataclass(frozen=True)
class Match:
    """How well a file fits a layout: where its names begin, what was found there, and the first thing that was not."""

    release: Release
    prefix: str
    found: list[str]
    lacking: str | None


def read_state(path: Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors file, or of a state dict that needs nothing but tensors and plain containers to be read.

    Raises UsageError: no such file, a damaged one, a pickle that wants to run code, or one without tensors.
    """
    if not path.is_file():
        raise UsageError(
            f"'{path}' is not a file. Download the weights from their authors first; `toolkit import --help` says where."
        )
    try:
        content = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError) as problem:
        if wanted := re.search(r"GLOBAL (\S+)", str(problem)):
            raise UsageError(_refusal(path, wanted[1])) from None
        raise UsageError(
            f"'{path}' cannot be read as a checkpoint: it is damaged, or neither safetensors nor a state dict that torch saved "
            f"({_first_line(problem)}). Download it again."
        ) from None
    tensors = unwrapped(content)
    if not tensors:
        raise UsageError(
            f"'{path}' holds no state dict: neither at its top nor under {', '.join(WRAPPERS)} are there named tensors."
        )
    return tensors


def _refusal(path: Path, wanted: str) -> str:
    """Why a pickle that imports ``wanted`` is not opened, and how to get the tensors out of it."""
    convert = (
        'import torch, safetensors.torch as s; d = torch.load("FILE", map_location="cpu", weights_only=False); '
        'd = d.get("model", d); s.save_file({k: v.contiguous().clone() for k, v in d.items()}, "FILE.safetensors")'
    )
    return (
        f"'{path}' is a pickle that holds more than tensors ({wanted}), so opening it could run code, and it is refused. If you "
        f"trust its authors, convert it once, in a place where it can do no harm: python -c '{convert}' (for \"model\" put "
        "the key under which the file keeps its tensors: state_dict, base_model), then import FILE.safetensors."
    )


def _first_line(problem: Exception) -> str:
    return (str(problem).splitlines() or ["no reason given"])[0].split(". ")[0][:200].rstrip(".")


def unwrapped(content: Any) -> dict[str, Tensor]:
    """The state dict in what a checkpoint holds: the content itself, or what lies under the usual names."""
    if not isinstance(content, Mapping):
        return {}
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    for name in WRAPPERS:
        inside = unwrapped(content.get(name))
        if len(inside) > len(tensors):
            return inside
    return tensors


def match(state: Mapping[str, Tensor], release: Release) -> Match:
    """The prefix under which most of a layout is found, and what is found there."""
    best: Match | None = None
    for prefix in _prefixes(state, release.layout):
        wrong = {key: _wrong(state, prefix + key, shape) for key, shape in release.layout.items()}
        found = [key for key, problem in wrong.items() if problem is None]
        first = next((problem for problem in wrong.values() if problem is not None), None)
        if best is None or len(found) > len(best.found):
            best = Match(release, prefix, found, first)
    assert best is not None
    return best


def _prefixes(state: Mapping[str, Tensor], layout: Iterable[str]) -> list[str]:
    ends = dict.fromkeys(layout)
    found = {name[: -len(key)] for key in ends for name in state if name == key or name.endswith(f".{key}")}
    return ["", *sorted(found - {""}, key=lambda prefix: (len(prefix), prefix))]


def _wrong(state: Mapping[str, Tensor], key: str, shape: Sequence[int | None]) -> str | None:
    if key not in state:
        return f"'{key}' is not there"
    got = tuple(state[key].shape)
    if len(got) != len(shape) or any(want not in (None, size) for want, size in zip(shape, got, strict=True)):
        return f"'{key}' has shape {got}, expected ({', '.join('any' if n is None else str(n) for n in shape)})"
    return None


def bare(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Tensors with names as in the layout: those under ``prefix`` without it, others without what they share with it."""
    parts = prefix.split(".")[:-1]
    starts = [".".join(parts[:n]) + "." for n in range(len(parts), 0, -1)]
    named: dict[str, Tensor] = {}
    for place, start in enumerate([*starts, ""]):  # those nearest to the layout choose their names first
        for key, value in state.items():
            if key.startswith(start) and not key.startswith(tuple(starts[:place])):
                name = key.removeprefix(start)
                named[name if name not in named else f"{name} (outside {prefix})"] = value
    return named


def recognise(state: Mapping[str, Tensor], name: str, releases: Sequence[Release]) -> Match:
    """The match of a file with the release it is said to be. Raises UsageError that names the nearest known layout."""
    matches = [match(state, release) for release in releases]
    asked = next(m for m in matches if m.release.name == name)
    if asked.lacking is None:
        return asked
    others = [m.release.name for m in matches if m.lacking is None]
    if others:
        advice = f"It is laid out as {' and '.join(others)}: pass --as {others[0]}."
    else:
        near = max(matches, key=lambda m: len(m.found) / len(m.release.layout))
        advice = _nearest(near, state)
    raise UsageError(f"The file is not laid out as {name}: {asked.lacking}. {advice}")


def _nearest(near: Match, state: Mapping[str, Tensor]) -> str:
    if not near.found:
        return f"None of the known layouts shares a tensor with it; it begins with {_some(list(state))}."
    return (
        f"The nearest known layout is {near.release.name}, of which it has {len(near.found)} of {len(near.release.layout)} "
        f"signs ({_some(near.found)}); the first that does not fit: {near.lacking}."
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")


def convert_state(state: Mapping[str, Tensor], release: Release) -> Converted:
    """The release in ``state`` as a model of ours. Raises UsageError that names the first tensors that do not fit."""
    found = recognise(state, release.name, [release])
    transfer = Transfer(bare(state, found.prefix))
    recipe = recipes.build(release.convert(transfer), where=f"Release '{release.name}'")
    own = masked.build(recipe).state_dict()
    _check(transfer, own)
    untrained = release.reason(transfer)
    tensors = {key: transfer.ours.get(key, value) for key, value in own.items()}
    return Converted(recipe, tensors, _ledger(transfer, own), untrained)


def _check(transfer: Transfer, own: Mapping[str, Tensor]) -> None:
    wrong = [f"'{key}' is no part of the model" for key in transfer.ours if key not in own]
    wrong += [
        f"'{key}' has shape {tuple(value.shape)}, expected {tuple(own[key].shape)}"
        for key, value in transfer.ours.items()
        if key in own and value.shape != own[key].shape
    ]
    wrong += [f"'{key}' is not in the file" for key in own if key not in transfer.ours and transfer.why_fresh(key) is None]
    if wrong:
        more = f" and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        raise UsageError(
            f"The tensors of the file do not make up the model: {'; '.join(wrong[:NAMED])}{more}. Another size or variant of "
            "the release may be laid out otherwise."
        )


def _ledger(transfer: Transfer, own: Mapping[str, Tensor]) -> dict[str, list[dict[str, Any]]]:
    used = [{"ours": key, "theirs": list(names), "shape": list(own[key].shape)} for key, names in transfer.origin.items()]
    missing = {key: transfer.made.get(key) or transfer.why_fresh(key) for key in own if key not in transfer.origin}
    return {
        "used": used,
        "skipped": [
            {"theirs": key, "shape": list(transfer.source[key].shape), "reason": reason}
            for key, reason in transfer.skipped().items()
        ],
        "missing": [{"ours": key, "shape": list(own[key].shape), "reason": reason} for key, reason in missing.items()],
    }
