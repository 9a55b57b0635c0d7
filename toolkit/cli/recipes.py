"""``toolkit recipes ls|show|cp``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from toolkit.cli.console import Debug, Json, Overwrite, put, put_json, reports

recipes = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="List, show and copy recipes.")

Name = Annotated[str, typer.Argument(help="A recipe's name.")]


@recipes.command("ls")
@reports
def ls(json_: Json = False, debug: Debug = False) -> None:
    """List the recipes that come with the package.

    Keys of --json: name domains backend objective paper parameters (of the default
    size, in the first domain) sizes presets.
    """
    import torch

    from toolkit import recipe as table
    from toolkit.model import masked

    rows: list[dict[str, Any]] = []
    for name in table.names():
        one = table.resolve(name)
        with torch.device("meta"):
            parameters = sum(p.numel() for p in masked.MaskedModel(one).parameters())
        rows.append(
            {
                "name": name,
                "domains": table.domains_of(name),
                "backend": one.backend,
                "objective": one.objective,
                "paper": one.paper,
                "parameters": parameters,
                "sizes": table.sizes(name),
                "presets": table.presets(name),
            }
        )
    if json_:
        put_json(rows)
    else:
        for row in rows:
            domains = "any domain" if len(row["domains"]) == len(table.SYSTEMS) else ", ".join(row["domains"])
            offered = ", ".join((*row["sizes"], *(f"--preset {preset}" for preset in row["presets"])))
            put(
                f"{row['name']:17} {domains:11} {row['backend']:8} {row['objective']:17} "
                f"{row['parameters'] / 1e6:6.1f} M  {offered}  {row['paper']}"
            )


@recipes.command("show")
@reports
def show(name: Name, debug: Debug = False) -> None:
    """Print a recipe's TOML."""
    from toolkit import recipe as table

    put(table.source(name).rstrip())


@recipes.command("cp")
@reports
def cp(
    name: Name,
    out: Annotated[Path, typer.Argument(help="File to write, ending in .toml.")],
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """Copy a recipe to a file of your own, to edit and pass as --recipe FILE; prints the path."""
    from toolkit import files
    from toolkit import recipe as table
    from toolkit.errors import UsageError

    text = table.source(name)
    if out.suffix != ".toml":
        raise UsageError(f"'{out}' must end in .toml, by which --recipe tells a file from a name.")
    files.check_file(out, overwrite=overwrite, what="File")
    files.write_text(out, text)
    put(str(out))
