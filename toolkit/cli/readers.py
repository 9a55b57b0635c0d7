"""``toolkit readers``."""

from __future__ import annotations

from toolkit.cli.console import Debug, Json, put, put_json, reports


@reports
def readers(json_: Json = False, debug: Debug = False) -> None:
    """List the file formats that can be read.

    Keys of --json: name domains suffixes.
    """
    import readers as door

    rows = [{"name": r.name, "domains": list(r.domains), "suffixes": list(r.suffixes)} for r in door.READERS]
    if json_:
        put_json(rows)
    else:
        for row in rows:
            put(f"{row['name']:12} {', '.join(row['domains']):13} {' '.join(row['suffixes'])}")
