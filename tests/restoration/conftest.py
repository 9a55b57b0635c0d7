"""A repairer with a model that has learnt nothing: what is tested here does not depend on how good it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from toolkit.corpus.inputs import Input
from toolkit.model.folder import LoadedModel
from toolkit.restoration import damage as damages
from toolkit.restoration import spans
from toolkit.restoration.mender import Request, Restored
from toolkit.restoration.repair import Repairer
from toolkit.restoration.run import Restoration
from toolkit.restoration.signals import SignalMender


@pytest.fixture(scope="session")
def repairer(loaded: LoadedModel) -> Repairer:
    return Repairer(loaded, torch.device("cpu"))


@pytest.fixture
def restore(repairer: Repairer, loaded: LoadedModel, tmp_path: Path) -> Callable[..., Restored]:
    """Restore one file into ``tmp_path/out``; ``table`` is the text of a --spans file beside it, ``damage`` as typed."""

    def run(path: Path, *, table: str | None = None, damage: str = "", **more: object) -> Restored:
        if table is not None:
            (path.parent / "spans.csv").write_text(table)
            more |= {"table": spans.read_table(path.parent / "spans.csv"), "table_folder": path.parent}
        request = Request(damage=tuple(damages.parse(damage)) if damage else (), **more)  # type: ignore[arg-type]
        job = Restoration(SignalMender(repairer), request, tmp_path / "out", loaded)
        job.check([Input(path, path.parent)])
        return job.restore(Input(path, path.parent))

    return run
