"""``toolkit readers``."""

from __future__ import annotations

from toolkit.cli.console import Debug, Json, put, put_json, reports


@reports
def readers(json_: Json = False, debug: Debug = False) -> None:
    """List the file formats that can be read.

    Keys of --json: name domain suffixes.
    """
    import readers as door

    rows = [{"name": r.name, "domain": r.domain, "suffixes": list(r.suffixes)} for r in door.READERS]
    if json_:
        put_json(rows)
    else:
        for row in rows:
            put(f"{row['name']:10} {row['domain']:10} {' '.join(row['suffixes'])}")
