"""The fields of an EEGLAB file (.set), found without decoding the data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from readers import mat5
from readers.mat5 import Buffer, Node, Variable
from readers.schema import ReadError


class SetFile:
    """A .set: the fields of its EEG structure, wherever they lie, and their buffers."""

    def __init__(self, path: Path) -> None:
        """Walk the file; numbers are not decoded. Raises ReadError."""
        self.path = path
        try:
            self.order, found = mat5.variables(path)
            self.variables = {variable.name: variable for variable in found}
            self.whole = self.variables.get("EEG")
            self._fields = self._root() if self.whole else {}
        except ReadError as error:
            raise ReadError(f"{path.name} {error}") from error
        except OSError as error:
            raise ReadError(f"{path.name} cannot be read: {error.strerror or error}") from error
        if not self.whole and not {"nbchan", "srate", "data"} <= set(self.variables):
            raise ReadError(f"{path.name} holds no EEG structure, but {', '.join(list(self.variables)[:5]) or 'nothing'}")

    def _root(self) -> Mapping[str, Node]:
        assert self.whole
        self._buffer = mat5.buffer_of(self.path, self.whole)  # kept: a small one would be inflated anew for each field
        root = mat5.parse(self._buffer, self.order)
        if len(root.items) != 1:
            raise ReadError(f"holds {len(root.items)} data sets in its EEG structure, expected one")
        return root.items[0]

    def variable(self, name: str) -> Variable:
        """The variable that holds a field."""
        return self.whole or self.variables[name]

    def node(self, name: str) -> tuple[Buffer, Node | None]:
        """A field and its buffer. Raises ReadError."""
        try:
            if self.whole:
                return self._buffer, self._fields.get(name)
            if name not in self.variables:
                return memoryview(b""), None
            buffer = mat5.buffer_of(self.path, self.variables[name])
            return buffer, mat5.parse(buffer, self.order)
        except ReadError as error:
            raise ReadError(f"{self.path.name} {error}") from error

    def number(self, name: str) -> float | None:
        """A field's first number."""
        buffer, node = self.node(name)
        return mat5.scalar(buffer, node, self.order)

    def text(self, name: str) -> str:
        """A field's text, empty where it has none."""
        buffer, node = self.node(name)
        return mat5.text(buffer, node, self.order)

    def table(self, name: str) -> list[dict[str, str | float | None]]:
        """A field that is an array of structures, as rows of texts and numbers."""
        buffer, node = self.node(name)
        return [{key: self.cell(buffer, cell) for key, cell in item.items()} for item in (node.items if node else [])]

    def cell(self, buffer: Buffer, cell: Node) -> str | float | None:
        """A text or the first number of a node."""
        return mat5.text(buffer, cell, self.order).strip() if cell.is_text else mat5.scalar(buffer, cell, self.order)
