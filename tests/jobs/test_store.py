"""Rows that a kill leaves usable, and prompts from files and pipes."""

import io
import math
import resource
import signal
import sys
from contextlib import contextmanager

import pytest

from prism_hf.data import read_prompts
from prism_hf.jobs.lines import append_line, whole_lines
from prism_hf.jobs.store import ResumableJsonl


def test_prompts_are_lines_of_text_or_of_json(tmp_path, monkeypatch):
    text = tmp_path / "prompts.txt"
    text.write_bytes("\ufeffone\r\n\n  two\u2028still\n".encode())
    assert read_prompts(text) == [{"prompt": "one"}, {"prompt": "  two\u2028still"}]
    rows = b'{"prompt": "one", "id": 1}\n\n{"id": [2], "prompt": "two\xe2\x80\xa8still"}'
    (tmp_path / "prompts.jsonl").write_bytes(rows)
    expected = [{"prompt": "one", "id": 1}, {"prompt": "two\u2028still", "id": [2]}]
    assert read_prompts(tmp_path / "prompts.jsonl") == expected
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(rows)))
    assert read_prompts() == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"\n \n", "no prompts"),
        ("a.txt", b"\xff", "no UTF-8"),
        ("a.jsonl", b'{"prompt": "a"}\n\n{"prompt', "line 3 is no JSON"),
        ("a.jsonl", b"text", "line 1 is no JSON"),
        ("a.txt", b'{"prompt": "a"}\n[1]', "line 2 must be a JSON object"),
        ("a.txt", b'{"promt": "a"}', "Rename 'promt'"),
        ("a.txt", b'{"prompt": " "}', "line 1: the prompt must be text"),
        ("a.txt", b'{"prompt": 3}', "got 3"),
        ("other.txt", b"x", r"no file .*a\.txt"),
        ("a.tx", b"x", r"Did you mean .*a\.tx\?"),
    ],
)
def test_what_is_no_prompt_is_named_with_its_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    path = tmp_path / ("a.jsonl" if name == "a.jsonl" else "a.txt")
    with pytest.raises(ValueError, match=message):
        read_prompts(path)


def test_an_output_is_not_made_of_what_is_missing_or_anothers(tmp_path):
    path = tmp_path / "folder" / "out.jsonl"
    assert not ResumableJsonl(path).begin({"seed": 0})
    ResumableJsonl(path).append(0, [{"a": "é\u2028"}], 1)
    ResumableJsonl(path).append(2, [{"a": 3}], 0)
    with pytest.raises(ValueError, match="1 of 3 parts .* first 1"):
        ResumableJsonl(path).merge(range(3))
    ResumableJsonl(path).append(1, [{"a": 2}, {"a": 2}], 0)
    ResumableJsonl(path).merge(range(3))
    assert path.read_bytes().decode() == '{"a": "é\u2028"}\n{"a": 2}\n{"a": 2}\n{"a": 3}\n'
    assert ResumableJsonl(path).begin({"seed": 0})
    with pytest.raises(ValueError, match="seed=0, now 1"):
        ResumableJsonl(path).begin({"seed": 1})
    (tmp_path / "mine.jsonl").write_text("precious")
    with pytest.raises(ValueError, match="not begun by this command"):
        ResumableJsonl(tmp_path / "mine.jsonl").begin({"seed": 0})
    with pytest.raises(ValueError, match="is a folder"):
        ResumableJsonl(tmp_path).begin({"seed": 0})


@contextmanager
def files_up_to(size):
    """As on a disk that is full: what goes beyond is written in part, then not at all."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("room", [0, 1, 99, 100])
def test_a_line_is_written_whole_or_not_at_all(tmp_path, room):
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


def test_shards_stay_where_the_output_has_no_room(tmp_path):
    path = tmp_path / "out.jsonl"
    ResumableJsonl(path).begin({"seed": 0})
    for index in range(2):
        ResumableJsonl(path).append(index, [{"a": "x" * 100}], index)
    with files_up_to(150), pytest.raises(OSError, match=r"out\.jsonl"):
        ResumableJsonl(path).merge(range(2))
    assert {each.name for each in tmp_path.iterdir()} == {
        "out.jsonl.settings.json", "out.jsonl.shard-00000", "out.jsonl.shard-00001",
    }  # fmt: skip
    ResumableJsonl(path).merge(range(2))
    assert [row["a"] for row in whole_lines(path)] == ["x" * 100] * 2


@pytest.mark.parametrize("line", [b'{"a": 1}{"a": 2}', b"[1]", b"\xff", b"\0\0", b""])
def test_a_damaged_line_is_named_with_its_remedy(tmp_path, line):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 0}\n' + line + b'\n{"a": 3}\n')
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 2, .*delete it"):
        whole_lines(path)
    (tmp_path / "rows.jsonl.settings.json").write_bytes(line)
    with pytest.raises(ValueError, match=r"rows\.jsonl\.settings\.json .*delete it"):
        ResumableJsonl(path).begin({"seed": 0})


def test_no_nan_is_written(tmp_path):
    row = {"a": math.nan, "b": [1.5, -math.inf, {"c": (math.inf, "NaN")}]}
    append_line(tmp_path / "rows.jsonl", row)
    assert (tmp_path / "rows.jsonl").read_text() == '{"a": null, "b": [1.5, null, {"c": [null, "NaN"]}]}\n'
