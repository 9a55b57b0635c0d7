"""What the names of MRI files tell: the contrast, whose scan it is, which files are one session."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from readers.bids import details
from readers.bids import entities as bids_entities

ENDINGS = (".nii.gz", ".nii", ".hdr")
# Contrasts of one session come in this order, the others after them by name.
ORDER = ("T1w", "T1ce", "T2w", "FLAIR", "PDw")
UNKNOWN = "volume"
MASK = "mask"

# The contrast, and how file names spell it, lower case and without separators. BraTS writes t1n, t1c, t2w, t2f.
_SPELLINGS = {
    "T1w": ("t1w", "t1", "t1n", "mprage", "t1mprage"),
    "T1ce": ("t1ce", "t1c", "t1gd", "t1wgd", "t1wce", "t1cew", "t1post", "t1km"),
    "T2w": ("t2w", "t2"),
    "FLAIR": ("flair", "t2f", "t2flair", "t2wflair"),
    "PDw": ("pdw", "pd"),
    "T2starw": ("t2starw", "t2star", "t2s"),
    "PDT2": ("pdt2",),
    "inplaneT1": ("inplanet1",),
    "inplaneT2": ("inplanet2",),
    "angio": ("angio", "mra", "tof"),
    "swi": ("swi",),
    "MTw": ("mtw",),
    "UNIT1": ("unit1",),
    "T1map": ("t1map",),
    "T2map": ("t2map",),
    "T2starmap": ("t2starmap",),
    "PDmap": ("pdmap",),
    "ADC": ("adc",),
}
# Series: known by name, never a contrast among others.
_SERIES = {"bold": ("bold",), "dwi": ("dwi", "dti"), "sbref": ("sbref",), "asl": ("asl",)}
_MASKS = ("lesionmask", "mask", "brainmask", "seg", "dseg", "probseg", "segmentation", "label", "labels", "roi")
_CONTRAST_OF = {spelling: contrast for contrast, words in (_SPELLINGS | _SERIES).items() for spelling in words}

_SEPARATOR = re.compile(r"[_\-. ]")
_BRATS_2023 = re.compile(r"(BraTS-[A-Za-z]+-\d+)-(\d+)", re.IGNORECASE)
_BRATS = re.compile(r"BraTS\d*(_[A-Za-z0-9]+)*_\d+", re.IGNORECASE)


@dataclass(frozen=True)
class NameParts:
    """A file name taken apart: what is before the contrast, the contrast as written, and what it means.

    ``entities``: of a BIDS name, in order. ``contrast`` is one of the schema's kinds, ``mask``, or ``volume``
    where the name tells none.
    """

    base: str
    word: str
    contrast: str
    entities: tuple[tuple[str, str], ...] = ()


_Named = tuple[Path, NameParts]


def stem_of(path: Path) -> str:
    """The file's name without the ending of its format."""
    ending = next((e for e in ENDINGS if path.name.lower().endswith(e)), path.suffix)
    return path.name[: len(path.name) - len(ending)]


def parts_of(path: Path) -> NameParts:
    """What a file name tells."""
    stem = stem_of(path)
    pieces = _SEPARATOR.split(stem)
    entities = tuple(bids_entities(path).items())
    for count in (2, 1):
        word = stem[len(stem) - len("".join(pieces[-count:])) - count + 1 :]
        spelled = "".join(pieces[-count:]).lower()
        base = stem[: len(stem) - len(word)].rstrip("_-. ")
        if len(pieces) < count:
            continue
        if count == 1 and spelled in _MASKS:
            return NameParts(base, word, MASK, entities)
        if spelled in _CONTRAST_OF:
            contrast = _CONTRAST_OF[spelled]
            enhanced = dict(entities).get("ce")
            if contrast == "T1w" and enhanced:
                return NameParts(base, f"ce-{enhanced}_{word}", "T1ce", entities)
            return NameParts(base, word, contrast, entities)
    return NameParts(stem, UNKNOWN, UNKNOWN, entities)


def ids_of(path: Path) -> dict[str, str]:
    """What a BIDS name and its participants.tsv, or a BraTS name, tell of the subject and session; else nothing."""
    parts = parts_of(path)
    if parts.entities:
        return dict(details(path, (), ()).ids)
    if found := _BRATS_2023.fullmatch(parts.base):
        return {"subject": found[1], "session": found[2]}
    return {"subject": parts.base} if _BRATS.fullmatch(parts.base) else {}


def groups_of(paths: Sequence[Path]) -> Iterator[tuple[Path, ...]]:
    """Files that are contrasts of one session, together, in the order of ``ORDER``; every other file alone.

    One session: the same folder and the same name before the contrast; in BIDS names the same entities but ``acq`` and
    ``ce``. Where a contrast comes twice, ``acq`` has to be the same too; where it still does, each file is alone.
    """
    sessions: dict[object, list[_Named]] = {}
    for path in paths:
        parts = parts_of(path)
        single = parts.contrast in (UNKNOWN, MASK, *_SERIES)
        sessions.setdefault(path if single else _session(path, parts, ("acq", "ce")), []).append((path, parts))
    for members in sessions.values():
        if _distinct(members):
            yield _ordered(members)
            continue
        narrower: dict[object, list[_Named]] = {}
        for path, parts in members:
            narrower.setdefault(_session(path, parts, ("ce",)), []).append((path, parts))
        for same in narrower.values():
            yield from [_ordered(same)] if _distinct(same) else ((path,) for path, _ in same)


def _session(path: Path, parts: NameParts, free: Iterable[str]) -> object:
    kept = tuple(entity for entity in parts.entities if entity[0] not in free)
    return path.parent, kept or parts.base


def _distinct(members: Sequence[_Named]) -> bool:
    return len({parts.contrast for _, parts in members}) == len(members)


def _ordered(members: Sequence[_Named]) -> tuple[Path, ...]:
    def place(member: _Named) -> tuple[int, str]:
        contrast = member[1].contrast
        return (ORDER.index(contrast) if contrast in ORDER else len(ORDER)), contrast

    return tuple(path for path, _ in sorted(members, key=place))
