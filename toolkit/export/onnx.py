"""Encoders as ONNX graphs of token tensors."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from toolkit.errors import UsageError
from toolkit.export import example
from toolkit.export.check import checked, furthest, imported
from toolkit.model.encoder import Encoder
from toolkit.model.folder import LoadedModel
from toolkit.model.positions import GridPositions
from toolkit.model.tokens import TokenSet
from toolkit.recipe import PointTokens, Recipe, TransformerTable

GRAPH = "encoder.onnx"
NEEDED = {"code": ("descriptor",), "own": ("channel", "descriptor"), "none": ()}  # by what channels are told apart
SHAPES = ((1, 5), (3, 24))  # of the check


class Cells(nn.Module):
    """Positions of a grid without the check that every token lies in it, which looks at values; those outside get the nearest."""

    places: Tensor

    def __init__(self, grid: GridPositions) -> None:
        super().__init__()
        self.table, self.cells = grid.table, grid.cells
        self.register_buffer("places", torch.stack([grid.middle, grid.cell]))

    def forward(self, coords: Tensor) -> Tensor:
        """coords (B, N, 4) -> (B, N, width)."""
        number = torch.zeros_like(coords[..., 0], dtype=torch.int64)
        for axis, count in enumerate(self.cells):
            place = (coords[..., axis] - self.places[0, axis]) / self.places[1, axis] + count / 2
            number = number * count + place.floor().long().clamp(0, count - 1)
        return self.table[number]


class Graph(nn.Module):
    """An encoder of tensors: patches, coords, and what tells channels apart. All tokens are valid: nothing looks at values."""

    def __init__(self, encoder: Encoder, names: tuple[str, ...]) -> None:
        super().__init__()
        self.encoder, self.names = copy.deepcopy(encoder), names
        if isinstance(self.encoder.embed_position, GridPositions):
            self.encoder.embed_position = Cells(self.encoder.embed_position)

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """States (B, N, D), and those of class token and registers (B, g, D), where there are any."""
        named, encoder = dict(zip(self.names, given, strict=True)), self.encoder
        patches, coords = named["patches"], named["coords"]
        none = torch.zeros_like(patches[..., 0], dtype=torch.int64)
        valid = torch.ones_like(none, dtype=torch.bool)
        tokens = TokenSet(patches, coords, named.get("channel", none), named.get("descriptor", none), valid, none, ())
        x, place = encoder._embedded(tokens)
        phases, extras = encoder.rotary(coords) if encoder.rotary is not None else None, 0
        if encoder.extra is not None:
            extras, size = encoder.extra.shape[0], x.shape[0]  # len() would make the number of samples a constant
            x = torch.cat([encoder.extra.expand(size, -1, -1), x], dim=1)
            if phases is not None:
                cos, sin = (part[:, :, :1].expand(-1, -1, extras, -1) * 0 for part in phases)
                phases = torch.cat([cos + 1, phases[0]], dim=2), torch.cat([sin, phases[1]], dim=2)
            if place is not None and encoder.extra_position is not None:
                place = torch.cat([encoder.extra_position.expand(size, -1, -1), place], dim=1)
        for block in encoder.blocks:
            x = block(x if place is None else x + place, phases, None)
        x = encoder.norm(x)
        return (x[:, extras:], x[:, :extras]) if extras else (x,)


def onnx_form(loaded: LoadedModel, out: Path) -> tuple[str, float]:
    """encoder.onnx: the last layer's states, for any number of samples and tokens; checked by onnxruntime at two shapes."""
    table = loaded.recipe.encoder
    if not isinstance(table, TransformerTable):
        raise UsageError(f"--as onnx: a {table.kind} does not work on tensors of tokens alone. Export it without --as.")
    if isinstance(loaded.recipe.tokenizer, PointTokens):
        raise UsageError(
            "--as onnx: the small PointNet that embeds groups of points leaves empty groups out by looking at values, which a "
            "graph of fixed operations does not express. Export it without --as."
        )
    if table.channels not in NEEDED:
        raise UsageError(
            "--as onnx: each token's channel chooses the layer that embeds its patch (encoder.channels = 'projection'), which a "
            "graph of fixed operations does not express. Export it without --as."
        )
    imported("onnxscript", "onnx")
    runtime = imported("onnxruntime", "onnx")
    names = ("patches", "coords", *NEEDED[table.channels])
    outputs = ["states"] + ["extra"] * bool(table.class_token + table.registers)
    encoder = loaded.model.cpu().eval().encoder
    assert isinstance(encoder, Encoder)
    graph = Graph(encoder, names)
    _write(graph, _given(loaded.recipe, names, 2, 8), names, outputs, out / GRAPH)
    session = runtime.InferenceSession(str(out / GRAPH), providers=["CPUExecutionProvider"])
    worst = 0.0
    for seed, (samples, count) in enumerate(SHAPES):
        given = _given(loaded.recipe, names, samples, count, seed=seed)
        found = session.run(None, {name: value.numpy() for name, value in zip(names, given, strict=True)})
        with torch.inference_mode():
            pairs = zip(found, graph(*given), strict=True)
            worst = max(worst, *(furthest(torch.from_numpy(theirs), ours) for theirs, ours in pairs))
    what = (
        f"`{GRAPH}`, inputs {', '.join(names)} as in config.json, of valid tokens only; outputs {' and '.join(outputs)} of the "
        f"last layer. Largest difference from ours in onnxruntime {worst:.1e}."
    )
    return what, checked(worst, "onnx")


def _given(recipe: Recipe, names: tuple[str, ...], samples: int, count: int, seed: int = 0) -> tuple[Tensor, ...]:
    tokens = example.tokens(recipe, samples, count, whole=True, seed=seed)
    return tuple(getattr(tokens, name).contiguous() for name in names)


def _write(graph: Graph, given: tuple[Tensor, ...], names: tuple[str, ...], outputs: list[str], path: Path) -> None:
    sizes = {0: torch.export.Dim("samples", min=1), 1: torch.export.Dim("tokens", min=1)}
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            torch.onnx.export(
                graph,
                given,
                str(path),
                input_names=list(names),
                output_names=outputs,
                dynamic_shapes=(tuple(sizes for _ in names),),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except Exception as problem:  # the exporter raises whatever its parts do
        cause = problem.__cause__ or problem
        raise UsageError(
            f"--as onnx: torch {torch.__version__} cannot express this encoder as a graph: {type(cause).__name__}: "
            f"{(str(cause).splitlines() or [''])[0][:300]}. Export it without --as."
        ) from None
    finally:
        log.setLevel(level)
