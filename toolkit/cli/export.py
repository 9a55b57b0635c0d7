"""``toolkit export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.console import Debug, Json, Overwrite, Quiet, put, put_json, reports, say


@reports
def export(
    model: Annotated[Path, typer.Argument(help="Run folder of `toolkit pretrain`, or a folder of `toolkit import`.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write.")],
    as_: Annotated[
        str | None,
        typer.Option(
            "--as",
            metavar="FORM",
            help="Beside it, the encoder for another program, checked by running it there: timm or hf (vision transformers of "
            "spectrograms with a table of positions, as imported ones), onnx (transformers of tokens).",
        ),
    ] = None,
    probe: Annotated[
        Path | None, typer.Option("--probe", help="Folder of `toolkit probe --out` whose scores the model card shows.")
    ] = None,
    overwrite: Overwrite = False,
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Write a model as a folder that others can read without this program; prints the folder.

    Example: toolkit export run --out released --probe scores

    It holds model.safetensors, config.json (everything that rebuilds the encoder), recipe.toml, README.md (the model card, in
    which you choose the licence) and example.safetensors, token tensors with the encoder's outputs, against which
    examples/load_export.py checks a rebuilding in plain torch. The folder is a model for embed, probe and restore, too. Keys of
    --json: out files form difference licence.
    """
    from toolkit.errors import UsageError, did_you_mean
    from toolkit.export import forms, write
    from toolkit.model import folder
    from toolkit.record import RunRecord

    record = RunRecord("export")
    if as_ is not None and as_ not in forms.FORMS:
        raise UsageError(f"There is no form '{as_}'. {did_you_mean(as_, forms.FORMS)}")
    facts = write.export(folder.load(model), out, record, form=as_, probe=probe, overwrite=overwrite)
    if facts["difference"] is not None:
        say(f"{as_} computes the same states: largest difference {facts['difference']:.1e}.", quiet=quiet)
    if facts["licence"]:
        say(f"The weights come with a licence of their authors, which holds here too: {facts['licence']}.", quiet=quiet)
    if json_:
        put_json(facts)
    else:
        put(str(out))
    return 0
