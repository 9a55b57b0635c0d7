"""The ``toolkit`` program: its subcommands, in the order a newcomer needs them."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from toolkit import __version__
from toolkit.cli.console import EXIT_CODES
from toolkit.cli.demo import demo
from toolkit.cli.doctor import doctor
from toolkit.cli.embed import embed
from toolkit.cli.export import export
from toolkit.cli.import_ import import_
from toolkit.cli.inspect import inspect
from toolkit.cli.prepare import prepare
from toolkit.cli.pretrain import pretrain
from toolkit.cli.probe import probe
from toolkit.cli.readers import readers
from toolkit.cli.recipes import recipes
from toolkit.cli.restore import restore

app = typer.Typer(
    name="toolkit",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for command in (pretrain, embed, probe, restore, inspect, prepare, readers, doctor, demo):
    app.command(epilog=EXIT_CODES)(command)
app.command("import", epilog=EXIT_CODES)(import_)
app.command(epilog=EXIT_CODES)(export)
app.add_typer(recipes, name="recipes")


def _version(asked: bool) -> None:
    if asked:
        print(f"toolkit {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Masked pretraining, embeddings, honest probes and restoration for a folder of your own recordings.

    Start with: toolkit demo
    """


def main() -> None:
    """Run the program."""
    # Threads that wait must sleep: spinning ones starve every other process on the cores, ours included.
    # The OpenMP library reads this when it is loaded, which is why it is set before any torch.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    app()
