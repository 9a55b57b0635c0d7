"""Released files: which are read, recognised and refused, and that every tensor of either side is accounted for."""

import argparse
import re
import shlex

import pytest
import torch
from safetensors.torch import save_file

from tests.published.vits import released, vit
from toolkit import recipe as recipes
from toolkit.errors import UsageError
from toolkit.model import folder, masked
from toolkit.published import RELEASES, bird_mae, read, write
from toolkit.published.base import Release, Transfer, timm_blocks
from toolkit.record import RunRecord


@pytest.fixture(scope="module")
def bird():
    return released(vit((512, 128), width=64, depth=2))


@pytest.mark.parametrize(
    "wrapped", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"base_model": {"model": s}, "loss": [0.1]}]
)
@pytest.mark.parametrize("prefix", ["", "module.", "model.encoder."])
def test_wrappers_and_prefixes_are_taken_off(bird, tmp_path, wrapped, prefix):
    torch.save(wrapped({prefix + key: value for key, value in bird.items()}), tmp_path / "a.pth")
    state = read.read_state(tmp_path / "a.pth")
    found = read.recognise(state, "bird-mae", RELEASES)
    assert found.lacking is None and found.prefix == prefix
    assert set(read.bare(state, prefix)) == set(bird)


def test_what_stands_beside_the_prefix_keeps_the_rest_of_its_name():
    state = {"net.encoder.a": 1, "net.decoder.a": 2, "a": 3, "b": 4}
    assert read.bare(state, "net.encoder.") == {"a": 1, "decoder.a": 2, "a (outside net.encoder.)": 3, "b": 4}


def test_safetensors_and_pickles_give_the_same_tensors(bird, tmp_path):
    save_file(bird, tmp_path / "a.safetensors")
    torch.save(bird, tmp_path / "a.pth")
    one, other = read.read_state(tmp_path / "a.safetensors"), read.read_state(tmp_path / "a.pth")
    assert set(one) == set(other) == set(bird) and all(torch.equal(one[key], other[key]) for key in bird)


def test_a_pickle_that_wants_more_than_tensors_is_refused_with_the_way_to_convert_it(bird, tmp_path):
    torch.save({"model": bird, "args": argparse.Namespace(lr=1)}, tmp_path / "a.pth")
    with pytest.raises(UsageError, match=r"more than tensors \(argparse\.Namespace\)") as refused:
        read.read_state(tmp_path / "a.pth")
    command = re.search(r"python -c '.*?'", str(refused.value))[0]
    exec(shlex.split(command.replace("FILE", str(tmp_path / "a.pth")))[2], {})
    found = read.read_state(tmp_path / "a.pth.safetensors")
    assert set(found) == set(bird) and all(torch.equal(found[key], bird[key]) for key in bird)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"no", "cannot be read"), (b"", "cannot be read"), (None, "not a file")],
    ids=["bytes", "empty", "absent"],
)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_files_that_are_no_checkpoints_are_refused(tmp_path, content, message, suffix):
    if content is not None:
        (tmp_path / f"a.{suffix}").write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read.read_state(tmp_path / f"a.{suffix}")


def test_a_checkpoint_without_tensors_is_refused(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "a.pth")
    with pytest.raises(UsageError, match="no state dict"):
        read.read_state(tmp_path / "a.pth")


def test_the_layout_of_another_release_is_named(bird):
    with pytest.raises(
        UsageError,
        match=r"not laid out as audio-mae: 'pos_embed' has shape \(1, 257, 64\), expected \(1, 513, any\).*--as bird-mae",
    ):
        read.recognise(bird, "audio-mae", RELEASES)


def test_an_unknown_layout_is_refused_with_the_nearest_and_what_it_lacks(bird):
    lacking = {key: value for key, value in bird.items() if key != "blocks.0.mlp.fc2.weight"}
    why = r"nearest known layout is bird-mae.*9 of 10.*'blocks\.0\.mlp\.fc2\.weight' is not there"
    with pytest.raises(UsageError, match=why):
        read.recognise(lacking, "reve", RELEASES)
    with pytest.raises(UsageError, match=r"None of the known layouts.*weight, bias"):
        read.recognise(torch.nn.Linear(2, 2).state_dict(), "reve", RELEASES)


def test_every_tensor_of_either_side_is_used_skipped_or_missing(bird):
    more = {"decoder_pred.weight": torch.zeros(2, 2), "head.weight": torch.zeros(3, 64), "strange": torch.zeros(1)}
    converted = read.convert_state(bird | more, bird_mae.RELEASE)
    ledger = converted.ledger
    theirs = {name for row in ledger["used"] for name in row["theirs"]}
    skipped = {row["theirs"]: row["reason"] for row in ledger["skipped"]}
    assert theirs | set(skipped) == set(bird) | set(more) and not theirs & set(skipped) and set(skipped) == set(more)
    assert skipped["strange"] == "unknown to this layout" and "classifier" in skipped["head.weight"]
    ours = [row["ours"] for row in ledger["used"] + ledger["missing"]]
    assert sorted(ours) == sorted(masked.build(converted.recipe).state_dict())
    assert all(row["ours"].startswith("branches.") and row["reason"] for row in ledger["missing"])
    assert "encoder alone" in converted.untrained


def test_tensors_that_do_not_make_up_the_model_are_named(bird):
    wrong = bird | {"blocks.1.mlp.fc1.weight": torch.zeros(7, 64)}
    with pytest.raises(UsageError, match=r"'encoder\.blocks\.1\.mlp\.0\.weight' has shape \(7, 64\), expected \(256, 64\)"):
        read.convert_state(wrong, bird_mae.RELEASE)
    lacking = {key: value for key, value in bird.items() if key != "blocks.1.norm2.weight"}
    with pytest.raises(UsageError, match=r"no tensor 'blocks\.1\.norm2\.weight'"):
        read.convert_state(lacking, bird_mae.RELEASE)


def test_the_query_is_the_first_third_of_one_linear():
    parts = ("norm1", "norm2", "attn.proj", "mlp.fc1", "mlp.fc2")
    one = {"b.0.in.weight": torch.arange(12.0).view(6, 2)}
    t = Transfer(one | {f"b.0.{part}.weight": torch.ones(6, 2) for part in parts})
    timm_blocks(t, "x", "b", 1, {"attn.qkv": "in"})
    assert t.ours["x.0.attention.query.weight"].tolist() == [[0, 1], [2, 3]]
    assert t.ours["x.0.attention.key_value.weight"].tolist() == [[4, 5], [6, 7], [8, 9], [10, 11]]
    assert not t.skipped() and "x.0.mlp.0.bias" not in t.ours


def test_a_folder_is_written_whole_and_carries_the_mark(bird, tmp_path):
    save_file(bird, tmp_path / "a.safetensors")
    converted = read.convert_state(bird, bird_mae.RELEASE)
    facts = write.save(converted, bird_mae.RELEASE, tmp_path / "a.safetensors", tmp_path / "m", RunRecord("import"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors", "m"]
    loaded = folder.load(tmp_path / "m")
    assert loaded.recipe == converted.recipe and loaded.untrained == converted.untrained and not facts["restores"]
    with pytest.raises(UsageError, match="exists"):
        write.save(converted, bird_mae.RELEASE, tmp_path / "a.safetensors", tmp_path / "m", RunRecord("import"))


def test_weights_that_were_trained_further_lose_the_mark(bird, tmp_path):
    converted = read.convert_state(bird, bird_mae.RELEASE)
    model = masked.build(converted.recipe)
    assert folder.start_from(model, converted.tensors, tmp_path) == []  # the encoder, and what is there of the decoder
    folder.save_weights(model, tmp_path / folder.WEIGHTS)
    (tmp_path / folder.RECIPE).write_text(recipes.to_toml(converted.recipe))
    assert folder.load(tmp_path).untrained == ""


@pytest.mark.parametrize("release", RELEASES, ids=lambda r: r.name)
def test_a_release_says_where_its_authors_publish_it_and_its_licence(release: Release):
    assert "https://" in release.where and release.licence and release.layout and release.system
