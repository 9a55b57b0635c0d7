import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from toolkit import recipe as recipes
from toolkit.errors import ToolkitError, UsageError
from toolkit.model import folder, masked


@pytest.fixture
def place(loaded, tmp_path):
    shutil.copytree(loaded.path, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("name", ["", folder.WEIGHTS])
def test_a_folder_or_its_weights_file_load_the_same_model(loaded, place, name, tiny):
    again = folder.load(place / name)
    assert again.recipe == loaded.recipe == tiny() and again.hash == loaded.hash and again.path == place
    assert not again.model.training and again.channels == ()
    expected = masked.build(tiny()).state_dict()
    assert all(torch.equal(again.model.state_dict()[k], v) for k, v in expected.items())


def test_the_channels_of_training_come_from_the_run_s_record(place):
    (place / folder.RUN).write_text('{"channels": {"II": 3, "V5": 1}}')
    assert folder.load(place).channels == ("II", "V5")
    for broken in ("{", "[]", '{"channels": 3}'):
        (place / folder.RUN).write_text(broken)
        assert folder.load(place).channels == ()


def remove_recipe(place):
    (place / folder.RECIPE).unlink()


def break_recipe(place):
    (place / folder.RECIPE).write_text("name = 3\n")


def other_shape(place):
    tensors = load_file(place / folder.WEIGHTS)
    tensors["encoder.norm.weight"] = torch.ones(7)
    save_file(tensors, place / folder.WEIGHTS)


def other_names(place):
    tensors = load_file(place / folder.WEIGHTS)
    tensors["head.weight"] = tensors.pop("encoder.norm.weight")
    save_file(tensors, place / folder.WEIGHTS)


def other_recipe(place):
    text = (place / folder.RECIPE).read_text()
    (place / folder.RECIPE).write_text(text.replace("width = 32", "width = 64"))


def pickled(place):
    (place / folder.WEIGHTS).write_bytes(pickle.dumps({"encoder.norm.weight": 1}))


def cut(place):
    content = (place / folder.WEIGHTS).read_bytes()
    (place / folder.WEIGHTS).write_bytes(content[: len(content) // 2])


def unfinished(place):
    (place / folder.WEIGHTS).unlink()
    (place / "checkpoints").mkdir()


def no_weights(place):
    (place / folder.WEIGHTS).unlink()


def gone(place):
    shutil.rmtree(place)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (remove_recipe, ["has no recipe.toml", "toolkit pretrain"]),
        (break_recipe, ["recipe.toml", "'name'", "3"]),
        (other_shape, ["encoder.norm.weight has shape (7,), expected (32,)", "recipe.toml"]),
        (other_names, ["encoder.norm.weight is missing", "head.weight is not part of it"]),
        (other_recipe, ["has shape", "expected", "more"]),
        (pickled, ["not a readable safetensors file", "pickle"]),
        (cut, ["not a readable safetensors file"]),
        (unfinished, ["has no model.safetensors", "--resume"]),
        (no_weights, ["has no model.safetensors"]),
        (gone, ["does not exist"]),
    ],
)
def test_a_model_that_cannot_be_used_says_why(place, damage, words):
    damage(place)
    with pytest.raises(UsageError) as error:
        folder.load(place)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert ("--resume" in str(error.value)) == (damage is unfinished)


class Trap:
    """Unpickling this would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".bin", ".safetensors"])
@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_a_pickle_is_refused_under_any_name_and_never_opened(place, suffix, writer):
    path, trap = place / f"weights{suffix}", Trap(place / "sprung")
    torch.save(trap, path) if writer == "torch" else path.write_bytes(pickle.dumps(trap))
    with pytest.raises(UsageError, match="refused"):
        folder.load(path)
    assert not trap.path.exists()


def test_a_pickle_without_a_recipe_beside_it_is_refused_as_a_pickle(tmp_path):
    torch.save({}, tmp_path / "downloaded.pt")
    with pytest.raises(UsageError, match="Pickled checkpoints"):
        folder.load(tmp_path / "downloaded.pt")


def test_a_failed_write_of_weights_keeps_the_old_ones(place, tiny, monkeypatch):
    before = (place / folder.WEIGHTS).read_bytes()

    def full(tensors, path, metadata=None):
        path.write_bytes(b"half")
        raise folder.SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(folder, "save_file", full)
    with pytest.raises(ToolkitError, match=r"model\.safetensors' could not be written: .*No space left on device"):
        folder.save_weights(masked.build(tiny(), 9), place / folder.WEIGHTS)
    assert (place / folder.WEIGHTS).read_bytes() == before
    assert sorted(p.name for p in place.iterdir()) == ["model.safetensors", "recipe.toml"]


def test_a_recipe_that_is_not_utf8_is_named(place):
    (place / folder.RECIPE).write_bytes(b"name = '\xff'")
    with pytest.raises(UsageError, match=r"recipe\.toml"):
        folder.load(place)


def test_saved_weights_are_what_the_format_s_own_library_reads(place, tiny):
    folder.save_tensors(place / "t.safetensors", {"a": torch.arange(6.0).view(2, 3).T}, {"k": "v"})
    assert torch.equal(load_file(place / "t.safetensors")["a"], torch.arange(6.0).view(2, 3).T)
    assert recipes.fingerprint(recipes.resolve(str(place / folder.RECIPE))) == recipes.fingerprint(tiny())
