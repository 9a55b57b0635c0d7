import base64
import json
import math
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread

from readers.schema import Channel
from toolkit.corpus.batches import Batch
from toolkit.model.tokenizers import PointGroups, SignalPatches, SpectrogramPatches, Tokenizer, VolumePatches, VoxelGrid
from toolkit.recipe import PointTokens, SignalData, SignalTokens, SpectrogramTokens, VolumeTokens, VoxelTokens
from toolkit.report import figures, panels, training


class _Page(HTMLParser):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.cell = False
        self.images: list[bytes] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.rows: list[list[str]] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name in ("src", "href"):
                self.links.append(value or "")
                self.images.append(base64.b64decode((value or "").removeprefix("data:image/png;base64,")))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        self.cell = tag in ("td", "th")

    def handle_endtag(self, tag: str) -> None:
        self.cell = False

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.cell:
            self.rows[-1][-1] += data


def _row(step: int, **more: Any) -> dict[str, Any]:
    terms = {"pixels <a>": {"loss": 0.5, "trivial": 1.0, "copy": 0.4}, "latent": {"loss": 3.0, "trivial": 2.0}}
    row = {"step": step, "loss": 3.5, "loss_trivial": 3.0, "terms": terms, "learning_rate": 1e-3, "grad_norm": 2.0}
    return {**row, "samples_per_s": 80.0, "data_wait": 0.25, "rank": 12.5, "collapsed": [], **more}


def _write(run: Path, rows: list[dict[str, Any]], picture: Path | None = None) -> _Page:
    facts = {"recipe": "x & <script>alert(1)</script>", "device": "cpu"}
    words = {"pixels <a>": "hidden patches as they are"}
    path = training.write_report(run, headline="A <run>", facts=facts, rows=rows, terms=words, panels=picture)
    assert path == run / "report.html"
    return _Page(path)


def _drawn(monkeypatch: pytest.MonkeyPatch, module: Any) -> list[Figure]:
    """The figures that a module saves from now on."""
    found: list[Figure] = []
    monkeypatch.setattr(module, "save", lambda path, figure: (found.append(figure), figures.save(path, figure))[1])
    return found


def test_the_page_names_each_term_with_its_levels_and_embeds_the_figures(tmp_path: Path) -> None:
    picture = figures.regression_png(tmp_path / "panels.png", np.arange(3.0), np.arange(3.0), "ms")
    page = _write(tmp_path, [_row(10), _row(20)], picture)
    head, *cells = next([head, *rows] for head, *rows in [page.rows[i:] for i in range(len(page.rows))] if head[0] == "term")
    table = {row[0]: dict(zip(head, row, strict=True)) for row in cells[:2]}
    assert table["pixels <a>"]["what"] == "hidden patches as they are" and table["latent"]["what"] == "–"
    assert [table["pixels <a>"][k] for k in ("loss", "trivial level", "copy level", "loss / trivial")] == [
        "0.5",
        "1",
        "0.4",
        "0.5",
    ]
    assert [table["latent"][k] for k in ("loss", "trivial level", "copy level")] == ["3", "2", "–"]
    assert "pixels <a>: loss 0.5 is below the trivial prediction's 1, 50 % of it, and not below that of copying" in page.text
    assert "latent: nothing learnt so far" in page.text
    facts = {row[0]: row[1] for row in page.rows if len(row) == 2}
    assert facts["recipe"] == "x & <script>alert(1)</script>" and "script" not in page.tags
    assert facts["steps"] == "20" and facts["effective rank of the states"] == "12.5"
    assert facts["samples / s"] == "80" and facts["waiting for data, % of the time"] == "25"
    written = [tmp_path / name for name in ("loss.png", "training.png", "panels.png")]
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert page.images == [path.read_bytes() for path in written]
    assert not list(tmp_path.glob("*.tmp")) and len(list(tmp_path.iterdir())) == 4
    assert all(imread(path)[..., :3].std() > 0.01 for path in written)


def test_a_collapse_is_told_with_advice_and_a_past_one_as_past(tmp_path: Path) -> None:
    flagged = {10: ["pixels <a>"], 20: ["pixels <a>"], 30: ["latent"]}
    terms = {"pixels <a>": {"loss": 1.0}, "latent": {"loss": 3.0, "trivial": 4.0}}
    rows = [{"step": step, "loss": 1.0, "terms": terms, "collapsed": names} for step, names in flagged.items()]
    text = _write(tmp_path, rows).text
    assert "COLLAPSED at the last step: latent." in text and training.ADVICE in text
    assert "latent: collapsed, so that its loss 3 says nothing" in text
    assert "pixels <a> looked collapsed in 2 of 3 log lines (steps 10 to 20), no longer at the end" in text
    sound = _write(tmp_path, [{**rows[0], "collapsed": []}]).text
    assert "COLLAPSED" not in sound and "No term looked collapsed" in sound


def test_old_short_and_damaged_logs_are_drawn(tmp_path: Path) -> None:
    old = [{"step": i, "loss": 1 / i, "loss_trivial": 1.0} for i in (1, 2, 3)]
    page = _write(tmp_path / "old", old)
    assert "loss: loss 0.3333 is below" in page.text and len(page.images) == 1  # nothing to draw but the loss
    assert "ollapsed" not in page.text  # nobody looked
    nan = [_row(10, terms={"a": {"loss": math.nan, "trivial": None}}, rank=math.nan, grad_norm=None), _row(20)]
    assert "a: no finite loss" in _write(tmp_path / "nan", json.loads(json.dumps(nan))).text
    assert len(_write(tmp_path / "one", [_row(1)]).images) == 2
    assert _write(tmp_path / "bare", [{"step": 1, "loss": math.nan}]).images
    with pytest.raises(ValueError, match="without a log line"):
        _write(tmp_path / "none", [])


def test_long_logs_are_thinned_to_means_and_wide_ones_have_a_log_axis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = _drawn(monkeypatch, training)
    losses = np.random.default_rng(0).normal(5, 1, 3000)
    rows = [
        _row(i + 1, loss=value, terms={"a": {"loss": 10 ** (-i / 1000), "trivial": 1.0}, "b": {"loss": value, "trivial": 6.0}})
        for i, value in enumerate(losses)
    ]
    training.losses_png(tmp_path / "loss.png", rows)
    total, a, b = drawn[0].axes
    assert [axes.get_title(loc="left") for axes in drawn[0].axes] == ["total loss", "a", "b"]
    assert [axes.get_yscale() for axes in (total, a, b)] == ["linear", "log", "linear"]
    lines = {line.get_label(): line for line in b.get_lines()}
    np.testing.assert_allclose(lines["loss"].get_ydata(), losses.reshape(300, 10).mean(1))
    assert lines["loss"].get_xdata()[[0, -1]].tolist() == [1, 3000]
    assert lines["trivial prediction"].get_linestyle() == "--" and set(lines["trivial prediction"].get_ydata()) == {6.0}


CHANNELS = tuple(Channel(name, name, "ecg", "mV", 1e-3, 100.0) for name in ("I", "II"))
SOUND = tuple(Channel(name, name, "audio", None, None, 8000.0) for name in ("low", "high"))
AXES = tuple(Channel(name, name, "x", "m", 1.0, None) for name in "xyz")


def _panels(
    path: Path, tokenizer: Tokenizer, values: np.ndarray, channels: tuple[Channel, ...], window: float = 0.0
) -> tuple[Any, Any, torch.Tensor]:
    """Draw with every second token visible, and a model that adds 100: the tokens, who is visible, what was drawn."""
    batch = Batch(values.astype(np.float32), np.ones(values.shape, dtype=bool), (channels,) * len(values))
    tokens = tokenizer.tokenize(batch)
    visible = torch.arange(0, tokens.patches.shape[1], 2).expand(len(values), -1)
    recipe: Any = SimpleNamespace(data=SimpleNamespace(window=window))
    model = tokens.patches + 100
    panels.panels_png(path, tokenizer, recipe, tokens, visible, model, [channels] * len(values), "t")
    assert imread(path)[..., :3].std() > 0.02
    return tokens, visible, model


def _images(figure: Figure) -> dict[str, tuple[np.ndarray, Any]]:
    """First picture of each titled axes by its title: (up, across) with NaN where blank, and the axes."""
    shown = [axes for axes in figure.axes if axes.get_images() and axes.get_title(loc="left")]
    return {a.get_title(loc="left"): (np.ma.filled(a.get_images()[0].get_array().astype(float), np.nan), a) for a in shown}


def test_signals_are_blank_where_hidden_and_the_models_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = _drawn(monkeypatch, panels)
    wave = np.random.default_rng(0).normal(0, 1, (1, 2, 80))
    tokenizer = SignalPatches(SignalTokens(patch=10), SignalData(kinds=("ecg",), rate_hz=100.0, window_s=0.8))
    _panels(tmp_path / "p.png", tokenizer, wave, CHANNELS)
    original, masked, completed = drawn[0].axes
    hidden = (np.arange(80) // 10) % 2 == 1
    first, blank = original.get_lines()[0], masked.get_lines()[0]
    np.testing.assert_allclose(first.get_xdata()[[0, -1]], [0.005, 0.795])
    np.testing.assert_allclose(first.get_ydata(), wave[0, 0], rtol=1e-6)
    np.testing.assert_array_equal(np.isnan(blank.get_ydata()), hidden)
    model = next(line for line in completed.get_lines() if line.get_label() == "model").get_ydata()
    np.testing.assert_array_equal(np.isnan(model), ~hidden)
    np.testing.assert_allclose(model[hidden], wave[0, 0, hidden] + 100, rtol=1e-5)
    assert any("II" in label.get_text() for label in original.get_yticklabels())
    assert completed.get_xlabel() == "time (s)"


def test_tones_lie_at_the_ticks_of_their_frequencies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = _drawn(monkeypatch, panels)
    table = SpectrogramTokens(kind="spectrogram", patch=16, mels=64, mean=-8.0, deviation=4.0)
    tones = 0.5 * np.sin(2 * np.pi * np.array([[500], [2000]]) * np.arange(8200) / 8000)[None]
    _panels(tmp_path / "p.png", SpectrogramPatches(table, 8000.0), tones, SOUND, window=8200 / 8000)
    shown = _images(drawn[0])
    for name, hz in (("low", "500"), ("high", "2000")):
        image, axes = shown[f"{name}: original"]
        ticks = dict(zip([t.get_text() for t in axes.get_yticklabels()], axes.get_yticks(), strict=True))
        assert abs(np.nanmean(image, axis=1).argmax() - ticks[hz]) <= 1
        assert 0.4 < np.isnan(shown[f"{name}: masked"][0]).mean() < 0.6


def test_volume_slices_are_in_mm_and_hidden_cubes_the_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = _drawn(monkeypatch, panels)
    volume = np.random.default_rng(0).normal(0, 1, (1, 1, 12, 12, 12))
    tokenizer = VolumePatches(VolumeTokens(kind="volume", patch=4), 2.0)
    _panels(tmp_path / "p.png", tokenizer, volume, CHANNELS[:1])
    shown = _images(drawn[0])
    original, axes = shown["I: original"]
    np.testing.assert_allclose(original, volume[0, 0, :, :, 6].T, rtol=1e-6)
    assert axes.get_images()[0].get_extent() == [-12, 12, -12, 12] and "mm" in axes.get_ylabel()
    changed = shown["reconstructed"][0] - original
    blank = np.isnan(shown["masked"][0])
    np.testing.assert_allclose(changed, np.where(blank, 100, 0), atol=1e-4)
    assert blank.any() and not blank.all()


def test_clouds_keep_visible_points_and_move_the_hidden_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = _drawn(monkeypatch, panels)
    cloud = np.random.default_rng(0).normal(0, 0.3, (2, 3, 64))
    tokenizer = PointGroups(PointTokens(kind="points", centres=8, neighbours=4))
    tokens, visible, model = _panels(tmp_path / "p.png", tokenizer, cloud, AXES)
    assert len(drawn[0].axes) == 6  # three stages of two samples
    seen, predicted = drawn[0].axes[2].collections
    whole = tokenizer.untokenize(model, tokens.coords)[0].view(8, 4, 3)
    there = tokenizer.untokenize(tokens.patches, tokens.coords)[0].view(8, 4, 3)
    np.testing.assert_allclose(np.stack(predicted._offsets3d, 1), whole[1::2].flatten(0, 1), rtol=1e-5)
    np.testing.assert_allclose(np.stack(seen._offsets3d, 1), there[visible[0]].flatten(0, 1), rtol=1e-5)


def test_voxels_show_the_layer_with_most_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = _drawn(monkeypatch, panels)
    cloud = np.random.default_rng(0).uniform(-0.9, 0.9, (1, 3, 200))
    cloud[:, 2, 20:] = 0.3  # a floor in layer 5 of 8, from 0.25 to 0.5
    _panels(tmp_path / "p.png", VoxelGrid(VoxelTokens(kind="voxels", side=8, patch=4)), cloud, AXES)
    image, axes = _images(drawn[0])["original"]
    edges = np.linspace(-1, 1, 9)
    counts = np.histogram2d(*cloud[0, :2, (cloud[0, 2] >= 0.25) & (cloud[0, 2] < 0.5)].T, bins=(edges, edges))[0]
    np.testing.assert_allclose(image, np.log2(1 + counts).T, atol=1e-5)
    assert axes.get_images()[0].get_extent() == [-1, 1, -1, 1]


def test_the_slice_of_a_thin_slab_is_one_that_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = _drawn(monkeypatch, panels)
    values, valid = (
        np.random.default_rng(0).normal(0, 1, (1, 1, 12, 12, 12)).astype(np.float32),
        np.zeros((1, 1, 12, 12, 12), bool),
    )
    valid[..., :4] = True
    tokenizer = VolumePatches(VolumeTokens(kind="volume", patch=4), 2.0)
    tokens, recipe = tokenizer.tokenize(Batch(values, valid, (CHANNELS[:1],))), SimpleNamespace()
    nothing = torch.zeros(1, 0, dtype=torch.int64)
    panels.panels_png(tmp_path / "p.png", tokenizer, recipe, tokens, nothing, tokens.patches, [CHANNELS[:1]], "t")
    np.testing.assert_allclose(_images(drawn[0])["I: original"][0], values[0, 0, :, :, 3].T, rtol=1e-6)


def test_samples_with_something_hidden_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = _drawn(monkeypatch, panels)
    values, valid = np.random.default_rng(0).normal(0, 1, (3, 2, 40)).astype(np.float32), np.ones((3, 2, 40), bool)
    valid[0, :, 20:] = False
    tokenizer = SignalPatches(SignalTokens(patch=10), SignalData(kinds=("ecg",), rate_hz=100.0, window_s=0.4))
    tokens, recipe = tokenizer.tokenize(Batch(values, valid, (CHANNELS,) * 3)), SimpleNamespace()
    visible = torch.tensor([[0, 1, 4, 5]]).expand(3, -1)  # all that is valid in the first sample
    panels.panels_png(tmp_path / "p.png", tokenizer, recipe, tokens, visible, tokens.patches, [CHANNELS] * 3, "t")
    first = [figure_axes.get_lines()[0].get_ydata() for figure_axes in drawn[0].axes[::3]]
    np.testing.assert_allclose(np.stack(first), values[1:, 0], rtol=1e-6)


def test_what_is_not_valid_is_blank_in_every_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = _drawn(monkeypatch, panels)
    values, valid = np.ones((1, 2, 40), np.float32), np.ones((1, 2, 40), bool)
    values[..., ::2], valid[..., 10:20] = -1, False
    tokenizer = SignalPatches(SignalTokens(patch=10), SignalData(kinds=("ecg",), rate_hz=100.0, window_s=0.4))
    tokens = tokenizer.tokenize(Batch(values, valid, (CHANNELS,)))
    recipe: Any = SimpleNamespace(data=SimpleNamespace(window=0.4))
    everything = torch.arange(8)[None]
    panels.panels_png(tmp_path / "p.png", tokenizer, recipe, tokens, everything, tokens.patches + 9, [CHANNELS], "t")
    for axes in drawn[0].axes:
        for line in axes.get_lines():
            if line.get_label() not in ("model", "hidden, true"):
                assert np.isnan(line.get_ydata()).nonzero()[0].tolist() == list(range(10, 20))


def test_tokens_without_a_drawing_are_refused(tmp_path: Path) -> None:
    recipe: Any = SimpleNamespace()
    with pytest.raises(KeyError):
        panels.panels_png(tmp_path / "p.png", recipe, recipe, recipe, torch.zeros(1), torch.zeros(1), [], "t")
