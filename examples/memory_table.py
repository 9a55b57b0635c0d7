"""Embeds a WFDB record and the same record repeated to 24 hours, and prints the peak memory of both runs.

python examples/memory_table.py RECORD.hea --model RUN --out OUT
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path

DAY_S = 24 * 3600


def repeat(header: Path, folder: Path) -> Path:
    """Write a record of one signal file whose samples are those of ``header``, repeated to a day."""
    lines = [line for line in header.read_text().splitlines() if line and not line.startswith("#")]
    name, signals, rate, samples, *_ = lines[0].split()
    times = math.ceil(DAY_S * float(rate.split("/")[0]) / int(samples))
    data = (header.parent / lines[1].split()[0]).read_bytes()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}_day.dat").open("wb") as handle:
        for _ in range(times):
            handle.write(data)
    rows = [f"{name}_day {signals} {rate} {int(samples) * times}"]
    for line in lines[1:]:
        fields = line.split()
        fields[0] = f"{name}_day.dat"
        if len(fields) > 6:  # the checksum is a sum of samples
            fields[6] = str((int(fields[6]) * times + 32768) % 65536 - 32768)
        rows.append(" ".join(fields))
    path = folder / f"{name}_day.hea"
    path.write_text("\n".join(rows) + "\n")
    return path


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    long = repeat(asked.record, asked.out)
    print(f"{'record':24} {'rows':>6} {'rows/s':>8} {'peak MB':>8}")
    for path in (asked.record, long):
        words = ["embed", str(path), "--model", asked.model, "--out", str(asked.out / f"{path.stem}.parquet"), "--overwrite"]
        done = subprocess.run([sys.executable, "-m", "toolkit", *words, "--json"], capture_output=True, text=True, check=True)
        facts = json.loads(done.stdout)
        print(f"{path.stem:24} {facts['rows']:6} {facts['samples_per_s']:8.1f} {facts['peak_memory_mb']:8.0f}", flush=True)


if __name__ == "__main__":
    main()
