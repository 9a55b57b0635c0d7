"""``toolkit demo``."""

from __future__ import annotations

from toolkit.cli.console import Debug, reports


@reports
def demo(debug: Debug = False) -> int:
    """Placeholder."""
    return 0
