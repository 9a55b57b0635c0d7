"""The program that decodes LAZ points for ``points_laz_decode``: damaged ones can end the process that decodes them.

python -I -S points_laz_child.py FOLDER DATA PACKING table|points [FIRST COUNT ROW_BYTES] < FILE

FOLDER: where lazrs lies. DATA: the byte at which the compressed points begin. PACKING: the record that describes the
compression, in hexadecimal. Writes the table of chunks (points and bytes of each, as 64-bit integers) or the records
of COUNT points; where the decoder refuses, its reason, and ends with REFUSED.
"""

from __future__ import annotations

import contextlib
import struct
import sys
from collections.abc import Sequence

REFUSED = 3
CPU_S = 60
_MEMORY_BYTES = 1 << 30


def bound() -> None:
    """Limit processor time and memory, and leave no core file, where the system can do that."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        limits = ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_CPU, CPU_S), (resource.RLIMIT_AS, _MEMORY_BYTES))
        for kind, wanted in limits:
            soft, hard = resource.getrlimit(kind)
            known = [limit for limit in (wanted, soft, hard) if limit != resource.RLIM_INFINITY]
            resource.setrlimit(kind, (min(known), hard))


def decoded(words: Sequence[str]) -> bytes | bytearray:
    """What the arguments ask for. Raises whatever the decoder raises."""
    sys.path.append(words[0])
    import lazrs

    data, packing = int(words[1]), bytes.fromhex(words[2])
    with open(0, "rb") as file:
        file.seek(data)
        if words[3] == "table":
            chunks = lazrs.read_chunk_table(file, lazrs.LazVlr(packing))
            return struct.pack(f"<{2 * len(chunks)}Q", *(number for chunk in chunks for number in chunk))
        first, count, row_bytes = map(int, words[4:])
        raw = bytearray(count * row_bytes)
        decoder = lazrs.LasZipDecompressor(file, packing)
        decoder.seek(first)
        decoder.decompress_many(raw)
        return raw


def main() -> int:
    """Returns the exit status."""
    bound()
    try:
        found = decoded(sys.argv[1:])
    except BaseException as error:  # a panic of Rust code is no Exception
        reason = " ".join(str(error).split())[:150] or type(error).__name__
        sys.stdout.buffer.write(reason.encode("utf-8", "replace"))
        return REFUSED
    sys.stdout.buffer.write(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
