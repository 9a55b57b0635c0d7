"""Warnings about inputs, gathered so that a thousand files with one property give one line."""

from __future__ import annotations

from collections.abc import Iterator


class Notes:
    """Sentences and the files they are true of, in order of first sight."""

    def __init__(self) -> None:
        self._files: dict[str, list[str]] = {}

    def add(self, name: str, sentence: str) -> None:
        """Note a sentence about a file."""
        sentence = sentence.removeprefix(f"{name}: ").removesuffix(".")
        names = self._files.setdefault(sentence, [])
        if name not in names:
            names.append(name)

    def lines(self, *, every_file: bool = False) -> Iterator[str]:
        """One line a sentence, naming its first files (all of them when asked)."""
        for sentence, names in self._files.items():
            shown = names if every_file or len(names) <= 3 else [*names[:2], f"and {len(names) - 2} more"]
            yield f"{', '.join(shown)}: {sentence}."
