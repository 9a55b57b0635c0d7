from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest
import wfdb
from hypothesis import example, given, settings
from hypothesis import strategies as st

from readers.schema import ReadError
from readers.wfdb_header import looks_like_header, parse_header, with_fields

NAME = st.text("abcXYZ019_-", min_size=1, max_size=8)


@st.composite
def signal_lines(draw):
    spec = draw(st.sampled_from(["16", "212", "80", "16x2", "16:3", "16x2:1+24", "24+512"]))
    line = f"{draw(NAME)}.dat {spec}"
    fields = draw(st.integers(0, 7))
    if fields == 0:
        return line
    gain = draw(st.sampled_from(["200", "0", "200.5", "-3", "1e3", "200(7)", "12.5(-3)/mV", "100/uV", "9/NU"]))
    integers = [str(draw(st.integers(-40000, 40000))) for _ in range(5)]
    integers[0] = integers[0].lstrip("-")  # a resolution is not negative
    integers[4] = integers[4].lstrip("-")
    line += f" {gain} {' '.join(integers[: fields - 1])}".rstrip()
    return line + (f" {draw(st.sampled_from(['II', 'ECG lead I', 'V 5', 'a-b']))}" if fields > 5 else "")


@settings(max_examples=80, deadline=None)
@given(
    name=NAME,
    rate=st.sampled_from(["", " 360", " 62.4725", " 250/250(0)", " 500/1"]),
    length=st.sampled_from(["", " 1000", " 1000 10:20:30", " 1000 10:20:30.5 25/12/1999"]),
    lines=st.lists(signal_lines(), min_size=1, max_size=4),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_headers_read_as_wfdb_reads_them(name, rate, length, lines, end):
    text = end.join([f"# note{end}{name} {len(lines)}{rate}{length if rate else ''}", *lines, "# age: 3", ""])
    ours = parse_header(text.encode(), "x.hea")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "x.hea").write_text(text, newline="")
        truth = wfdb.rdheader(f"{folder}/x")
    assert looks_like_header(text.encode())
    assert (ours.name, ours.n_signals, ours.rate_hz, ours.n_frames) == (
        truth.record_name,
        truth.n_sig,
        truth.fs,
        truth.sig_len,
    )
    assert [s.file for s in ours.signals] == truth.file_name
    assert [s.format for s in ours.signals] == truth.fmt
    assert [s.samples_per_frame for s in ours.signals] == truth.samps_per_frame
    assert [s.skew for s in ours.signals] == [skew or 0 for skew in truth.skew]
    assert [s.byte_offset for s in ours.signals] == [offset or 0 for offset in truth.byte_offset]
    assert [s.gain for s in ours.signals] == truth.adc_gain
    assert [s.baseline for s in ours.signals] == truth.baseline
    assert [s.unit or "mV" for s in ours.signals] == truth.units
    assert [s.initial for s in ours.signals] == truth.init_value
    assert [s.checksum for s in ours.signals] == truth.checksum
    assert [s.name for s in ours.signals] == truth.sig_name
    assert list(ours.comments) == truth.comments
    if truth.base_date and truth.base_time:
        assert ours.start_date == truth.base_datetime.isoformat()


@given(st.binary(max_size=200))
@example(b"ENVI\nsamples = 3\n")
@example(b"100 2 360 650000\n{json}")
@example(b"NRRD0004\n# x\n")
@example(b"width 640\nheight 480 pixels high\n")
@example(b"a" * 5000 + b" 1 2")
def test_other_files_are_refused_with_a_reason(data):
    looks_like_header(data)
    try:
        parse_header(data, "x.hea")
    except ReadError as error:
        assert "x.hea" in str(error)


@pytest.mark.parametrize(
    "text",
    ["ENVI\nlines = 3\n", "hello world\n", "100 2 360 650000\n{json}\n", "# only\n", "1 2 3 4 x y z w\n"],
)
def test_text_that_is_no_header(text):
    assert not looks_like_header(text.encode())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"\xff\xfe\x00garbage", "not a WFDB header"),
        (b"x 99999 250 10\n", "99999 signals"),
        (b"x 1 0 10\nx.dat 16\n", "sampling rate of 0 Hz"),
        (b"x 1 -5 10\nx.dat 16\n", "sampling rate of -5 Hz"),
        (b"x 1 1e12 10\nx.dat 16\n", "sampling rate of 1e12 Hz"),
        (b"x 2 250 10\nx.dat 16\n", "1 of the 2 signals"),
        (b"x/3 2 250 10\na 5\n", "1 of the 3 segments"),
        (b"x/0 2 250 10\n", "no segments"),
        (b"x 1 250 10\nx.dat sixteen\n", "cannot be read"),
        (b"x 1 250 10\n../secret.dat 16 200\n", "outside its folder"),
        (b"x 1 250 10\n" + b"x" * 197 + b".dat 16 200\n", "signal file in 201 bytes; at most 200"),
        (b"x/1 1 250 10\n" + b"x" * 5000 + b" 10\n", "segment in 5000 bytes; at most 200"),
        (b"x 1 250 10\nx\0.dat 16 200\n", "signal file that no file can be called"),
        (b"x/2 1 250 20\nb\0c 10\nd 10\n", "segment that no file can be called"),
        (b"x/1 1 250 10\n../b 10\n", "segment outside its folder"),
        (b"x 1 250 10\nx.dat 16x0 200\n", "0 samples per frame"),
        (b"x 1 250 10\nx.dat 16x999999 200\n", "999999 samples per frame"),
    ],
)
def test_what_cannot_be_used_says_why(text, reason):
    with pytest.raises(ReadError, match=reason):
        parse_header(text, "x.hea")


@pytest.mark.parametrize("clock", ["99999999999999999:30:00", "1:2147483648:00", "0:0:" + "9" * 400, "25:00:00", "1:2:3:4"])
def test_a_time_that_cannot_be_leaves_the_date(clock):
    assert parse_header(f"x 0 250 10 {clock} 02/03/2004\n".encode(), "x.hea").start_date == "2004-03-02"


def test_micro_sign_is_kept_in_both_encodings():
    for encoding in ("utf-8", "latin-1"):
        header = parse_header("x 1 250 10\nx.dat 16 200/µV 16 0\n".encode(encoding), "x.hea")
        assert header.signals[0].unit == "µV"


def test_new_fields_change_nothing_else():
    data = b"# caf\xe9\r\n x  2 250 10\r\n\r\n# n\r\nx.dat  16 200\t16 0 -5  77 0 II  lead\r\nx.dat 16 200 16 0 -5\r\n#end"
    new = with_fields(data, {0: 12, 1: 13}, {0: -30000, 1: 9})
    assert new == data.replace(b"-5  77", b"12  -30000").replace(b"0 -5\r\n#end", b"0 13\r\n#end")


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ("r 1 nan 100", "x.hea claims a sampling rate of nan Hz"),
        ("r 1 100 -5", "x.hea claims a length of -5 samples"),
        ("r -1 100 5", "x.hea claims -1 signals"),
        ("r 1 100 5 noon", "x.hea has a record line that cannot be read: 'r 1 100 5 noon'"),
    ],
)
def test_a_record_line_with_a_wrong_number_is_a_header_all_the_same(record, reason):
    text = f"# note\n{record}\nr.dat 16 200(3)/mV 16 0 0 0 0 II\n".encode()
    assert looks_like_header(text)
    with pytest.raises(ReadError, match=re.escape(reason)):
        parse_header(text, "x.hea")
    assert not looks_like_header(f"{record}\nr.dat of all things\n".encode()) or record == "r 1 100 5"
