"""What stands beside the samples of a WFDB record: annotation files, and ids in the header's comments."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

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
_NOTE = 22
_RESOLUTION = re.compile(r"## time resolution: (\d+\.?\d*)")
_DEFINITION = re.compile(r"(\d{1,3}) (\S+) .+")
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
    # Asked by name: a folder may hold tens of thousands of files, whose list would cost more.
    stem = str(handle.with_suffix(""))
    beside = [handle.with_suffix(f".{annotator}") for annotator in ANNOTATORS if os.path.isfile(f"{stem}.{annotator}")]
    return tuple(path for path in beside if path not in signal_files)


def read_annotations(path: Path, rate_hz: float) -> list[Event]:
    """Events of one annotation file; ``rate_hz`` applies where the file states no time resolution.

    Raises ReadError.
    """
    try:
        return _events_of(path, rate_hz)
    except Exception as error:  # of the library, or of its lists that do not fit one another
        raise ReadError(f"{path.name} cannot be read as an annotation file: {error}") from error


def _events_of(path: Path, rate_hz: float) -> list[Event]:
    from wfdb.io.annotation import ann_label_table, proc_ann_bytes

    # Not wfdb.rdann: it never returns from a file whose definitions are damaged (4.3.1).
    columns = proc_ann_bytes(np.frombuffer(path.read_bytes(), np.uint8).reshape(-1, 2), None)
    rows = list(zip(*columns, strict=True))
    symbols = dict(zip(ann_label_table["label_store"], ann_label_table["symbol"], strict=True))
    rate, kept = rate_hz, []
    for sample, store, subtype, chan, num, aux in rows:
        if store == _NOTE and sample == 0:  # not an annotation: it defines what follows
            rate = float(found[1]) if (found := _RESOLUTION.match(aux)) else rate
            symbols |= {int(found[1]): found[2]} if (found := _DEFINITION.match(aux)) else {}
        elif store:
            kept.append((sample, symbols.get(store, str(store)), subtype, chan, num, aux))
    if not (math.isfinite(rate) and rate > 0):
        raise ReadError(f"a time resolution of {rate} Hz")
    return [
        Event(
            onset_s=float(sample) / rate,
            duration_s=0.0,
            label=str(symbol),
            extra={
                "subtype": int(subtype),
                "chan": int(chan),
                "num": int(num),
                "aux_note": aux.rstrip("\x00"),
                "annotator": path.suffix[1:],
            },
        )
        for sample, symbol, subtype, chan, num, aux in kept
    ]
