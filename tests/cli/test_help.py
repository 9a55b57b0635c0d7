"""Help, lists and the start of the program."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

HELP = """
import sys
from typer.testing import CliRunner
from toolkit.cli.app import app
names = {commands}
for words in [[], *names]:
    done = CliRunner().invoke(app, [*words, "--help"])
    assert done.exit_code == 0, (words, done.output)
    assert "Usage" in done.stdout and not done.stderr, words
heavy = {{"torch", "mne", "librosa", "open3d", "wfdb", "nibabel", "pandas", "sklearn", "numpy", "pyarrow", "rich"}}
print(*sorted(heavy & set(sys.modules)))
"""
COMMANDS = [
    ["pretrain"],
    ["embed"],
    ["probe"],
    ["restore"],
    ["inspect"],
    ["prepare"],
    ["readers"],
    ["doctor"],
    ["demo"],
    ["import"],
    ["export"],
    ["recipes"],
    ["recipes", "ls"],
    ["recipes", "show"],
    ["recipes", "cp"],
]


def test_no_help_loads_a_heavy_package() -> None:
    done = subprocess.run([sys.executable, "-c", HELP.format(commands=COMMANDS)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("command", ["pretrain", "embed", "probe", "restore", "inspect"])
def test_help_says_how_it_ends_and_gives_an_example(toolkit, command: str) -> None:
    text = toolkit(command, "--help").out
    for word in ("--json", "--quiet", "--debug", "Exit codes", "Example: toolkit"):
        assert word in text


def test_version_and_no_words_at_all(toolkit) -> None:
    assert toolkit("--version").out.startswith("toolkit ")
    assert "Commands" in toolkit(code=2).err
    assert "restore" in toolkit("restor", code=2).err


def test_readers_and_recipes(toolkit, tmp_path: Path) -> None:
    assert all({"name", "domains", "suffixes"} <= set(reader) for reader in toolkit("readers", "--json").document)
    assert "wfdb" in toolkit("readers").out
    rows = toolkit("recipes", "ls", "--json").document
    keys = {"name", "domains", "backend", "objective", "paper", "parameters", "sizes", "presets"}
    assert all(set(row) == keys and row["parameters"] > 0 and row["sizes"] for row in rows)
    of = {row["name"]: row for row in rows}
    assert of["reve"]["presets"] == ["wide"] and of["point-mae"]["presets"] == []
    assert (of["csfm"]["domains"], of["csfm"]["backend"]) == (["cardiac"], "vit")
    assert (len(of["spark"]["domains"]), of["spark"]["backend"]) == (5, "convnet")
    assert [line.split()[0] for line in toolkit("recipes", "ls").out.splitlines()] == list(of)
    assert tomllib.loads(toolkit("recipes", "show", "csfm").out)["name"] == "csfm"
    copy = tmp_path / "mine.toml"
    assert toolkit("recipes", "cp", "csfm", copy).out.strip() == str(copy)
    assert "exists" in toolkit("recipes", "cp", "csfm", copy, code=2).error
    toolkit("recipes", "cp", "csfm", copy, "--overwrite")
    assert "csfm" in toolkit("recipes", "show", "csfn", code=2).error
    assert ".toml" in toolkit("recipes", "cp", "csfm", tmp_path / "mine", code=2).error


def test_doctor(toolkit) -> None:
    done = toolkit("doctor", "--json")
    assert set(done.document) == {"ok", "checks"}
    assert {"name", "ok", "detail"} == set(done.document["checks"][0])
    assert json.loads(done.out)["ok"]
    assert "torch" in toolkit("doctor").out
