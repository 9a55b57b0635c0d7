"""Recordings opened for one recipe: what to draw from, what failed, what the model will not see."""

from __future__ import annotations

from readers.schema import ReadError
from toolkit.corpus import framing, grids
from toolkit.corpus.batches import Source
from toolkit.corpus.inputs import Failure, Inputs, open_input
from toolkit.corpus.notes import Notes
from toolkit.recipe import Recipe


def open_sources(gathered: Inputs, recipe: Recipe) -> tuple[list[Source], list[Failure], Notes]:
    """Open every input of DATA. A file that cannot be used is a failure with its reason, never an exception.

    Raises UsageError for a prepared corpus on another grid than the recipe's.
    """
    grids.check(gathered.items, recipe)
    sources: list[Source] = []
    failures: list[Failure] = []
    notes = Notes()
    frame = framing.build(recipe)
    for item in gathered.items:
        try:
            recording = open_input(item)
            chosen = frame.channels(recording)
        except ReadError as problem:
            failures.append(Failure(str(item.path), str(problem)))
            continue
        sources.append(Source(recording, tuple(chosen), frame.length(recording), item.ids.get("subject")))
        for sentence in (*frame.mismatches(recording, (), chosen), *recording.warnings):
            notes.add(item.path.name, sentence)
    return sources, failures, notes


def channel_counts(sources: list[Source]) -> dict[str, int]:
    """How many recordings hold each channel, by canonical name."""
    found: dict[str, int] = {}
    for source in sources:
        for name in {source.recording.channels[i].canonical for i in source.channels}:
            found[name] = found.get(name, 0) + 1
    return dict(sorted(found.items()))
