"""The same numbers as other people's code that runs now, each in an environment of its own, with TOOLKIT_PEERS=1.

They cannot all be installed beside this program (braindecode's torchaudio, monai of 2023), so each gets a virtual
environment: in the folder that TOOLKIT_PEERS_AT names, where it stays, or in pytest's temporary one. A gigabyte each.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.published.peers import ours

PEERS = {
    "reve": ("braindecode==1.8.1",),
    "reve_mae": ("braindecode==1.8.1",),
    "point_mae": ("torch-pointcloud==0.0.18",),
    "point_cmae": ("torch-pointcloud==0.0.18",),
    "bm_mae": ("monai==1.3.0", "einops", "numpy"),
    "filterbank": ("kaldi-native-fbank==1.22.5", "numpy"),
}
SCRIPTS = Path(ours.__file__).parent
pytestmark = pytest.mark.skipif(
    os.environ.get("TOOLKIT_PEERS") != "1",
    reason="installs the peers, 1 GB each: set TOOLKIT_PEERS=1 (test_parity_peers.py compares with recordings of them)",
)


def run(*command: str | Path) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stderr[-3000:]}"


@pytest.fixture(scope="session")
def environments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    named = os.environ.get("TOOLKIT_PEERS_AT")
    return Path(named) if named else tmp_path_factory.mktemp("peers")


def python_of(environments: Path, packages: tuple[str, ...]) -> Path:
    """The interpreter of an environment with these packages, made where it is not there yet."""
    folder = environments / packages[0].partition("==")[0]
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        run(sys.executable, "-m", "venv", "--clear", folder)
        wheel = torch.__version__.partition("+")[0]  # the torch that runs here, so that both round alike
        run(python, "-m", "pip", "install", "--quiet", "--no-cache-dir", f"torch=={wheel}")
        run(python, "-m", "pip", "install", "--quiet", "--no-cache-dir", *packages)
        (folder / "ready").touch()
    return python


@pytest.mark.parametrize("peer", PEERS)
def test_same_numbers_as_the_peer(peer: str, environments: Path, tmp_path: Path) -> None:
    recording = tmp_path / f"{peer}.npz"
    run(python_of(environments, PEERS[peer]), SCRIPTS / f"{peer}.py", recording)
    for what, mine, theirs in ours.COMPARE[peer](recording):
        assert mine.shape == theirs.shape, what
        assert (mine - theirs).abs().max() <= ours.BOUND[peer], what
