"""Lines that are on the disk whole or not at all."""

import math

import pytest

from prism_hf.jobs.lines import append_line, whole_lines


@pytest.mark.parametrize("room", [0, 1, 99, 100])
def test_a_line_is_written_whole_or_not_at_all(tmp_path, files_up_to, room):
    path = tmp_path / "rows.jsonl"
    append_line(path, {"n": 0})
    before = path.read_bytes()
    row = {"n": "x" * 91}  # 101 bytes with its end
    with files_up_to(len(before) + room), pytest.raises(OSError, match=r"rows\.jsonl"):
        append_line(path, row)
    assert path.read_bytes() == before
    append_line(path, row)
    assert whole_lines(path) == [{"n": 0}, row]


def test_a_line_is_not_glued_to_one_that_was_cut_off(tmp_path):
    for torn in (b'{"n": 0}\n{"n', b'{"n', b'{"n": 0}\n{"n": "' + b"x" * 200_000):
        path = tmp_path / f"{len(torn)}.jsonl"
        path.write_bytes(torn)
        append_line(path, {"n": 1})
        assert path.read_bytes() == torn[: torn.rfind(b"\n") + 1] + b'{"n": 1}\n'


@pytest.mark.parametrize("line", [b'{"a": 1}{"a": 2}', b"[1]", b"\xff", b"\0\0", b""])
def test_a_damaged_line_is_named_with_its_remedy(tmp_path, line):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 0}\n' + line + b'\n{"a": 3}\n')
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 2, .*delete it"):
        whole_lines(path)


def test_no_nan_is_written(tmp_path):
    row = {"a": math.nan, "b": [1.5, -math.inf, {"c": (math.inf, "NaN")}]}
    append_line(tmp_path / "rows.jsonl", row)
    assert (tmp_path / "rows.jsonl").read_text() == '{"a": null, "b": [1.5, null, {"c": [null, "NaN"]}]}\n'
