"""What stands beside the samples of a WFDB record: annotation files, and ids in the header's comments."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from readers.schema import Event, ReadError
from readers.wfdb_header import Header

# Reference annotations first, then those of detectors and editors that PhysioNet's databases use.
ANNOTATORS = (
    *("atr", "qrs", "ann", "ari", "st", "sta", "stb", "stc", "apn", "ecg", "man", "pu", "pu0", "pu1"),
    *(
        "qt1",
        "qt2",
        "q1c",
        "q2c",
        "pwave",
        "wqrs",
        "gqrs",
        "gqrsl",
        "gqrsh",
        "sqrs",
        "jqrs",
        "xqrs",
        "wabp",
        "wrsamp",
        "cmt",
    ),
)

_SUBJECT = re.compile(
    r"<?\b(?:subject|patient)(?:[ _]?(?:id|number|no\.?))?>?\s*(?:[:=]\s*([\w-]+)|\s(?=[\w-]*\d)([\w-]+))", re.I
)
_AGE = re.compile(r"<?\bage>?\s*[:=]\s*(\d+(?:\.\d+)?)", re.I)
_SEX = re.compile(r"<?\b(?:sex|gender)>?\s*[:=]\s*(male|female|[mf])\b", re.I)
_AGE_SEX = re.compile(r"(\d{1,3})\s+([MF])\b(?:\s|$)")  # "69 M 1085 1629 x1", the MIT-BIH way
_UNKNOWN = {"n", "na", "nan", "none", "unknown", "anonymous"}


def ids_of(header: Header, record: str) -> dict[str, str]:
    """Record name, and subject, age (years) and sex (male, female) where the comments state them outright."""
    ids = {"record": record}
    for comment in header.comments:
        subject = _SUBJECT.search(comment)
        if subject and (subject[1] or subject[2]).lower() not in _UNKNOWN:
            ids.setdefault("subject", subject[1] or subject[2])
        brief = _AGE_SEX.match(comment)
        age, sex = _AGE.search(comment), _SEX.search(comment)
        if age or brief:
            ids.setdefault("age", age[1] if age else brief[1])  # type: ignore[index]
        if sex or brief:
            letter = (sex[1] if sex else brief[2]).lower()[0]  # type: ignore[index]
            ids.setdefault("sex", "male" if letter == "m" else "female")
    return ids


def annotation_files(handle: Path, signal_files: Sequence[Path]) -> tuple[Path, ...]:
    """Annotation files beside a record; ``.ecg`` and the like may also be a signal file."""
    beside = (handle.with_suffix(f".{annotator}") for annotator in ANNOTATORS)
    return tuple(path for path in beside if path not in signal_files and path.is_file())


def read_annotations(path: Path, rate_hz: float) -> list[Event]:
    """Events of one annotation file; ``rate_hz`` applies where the file states no time resolution.

    Raises ReadError.
    """
    import wfdb

    try:
        annotation = wfdb.rdann(str(path.with_suffix("")), path.suffix[1:])
    except Exception as error:
        raise ReadError(f"{path.name} cannot be read as an annotation file: {error}") from error
    rate = float(annotation.fs or rate_hz)
    columns = (annotation.sample, annotation.symbol, annotation.subtype, annotation.chan, annotation.num)
    return [
        Event(
            onset_s=float(sample) / rate,
            duration_s=0.0,
            label=str(symbol),
            extra={
                "subtype": int(subtype),
                "chan": int(chan),
                "num": int(num),
                "aux_note": (aux or "").rstrip("\x00"),
                "annotator": path.suffix[1:],
            },
        )
        for sample, symbol, subtype, chan, num, aux in zip(*columns, annotation.aux_note, strict=True)
    ]
