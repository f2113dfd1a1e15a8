"""Prompts from files and pipes."""

import io
import sys

import pytest

from prism_hf.data import read_prompts
from prism_hf.data.jsonl import append_part, begin_output, merge_parts, shard_path


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
    assert not begin_output(path, {"seed": 0})
    append_part(shard_path(path, 1), 0, [{"a": "é\u2028"}])
    append_part(shard_path(path, 0), 2, [{"a": 3}])
    with pytest.raises(ValueError, match="1 of 3 parts .* first 1"):
        merge_parts(path, 3)
    append_part(shard_path(path, 0), 1, [{"a": 2}, {"a": 2}])
    merge_parts(path, 3)
    assert path.read_bytes().decode() == '{"a": "é\u2028"}\n{"a": 2}\n{"a": 2}\n{"a": 3}\n'
    assert begin_output(path, {"seed": 0})
    with pytest.raises(ValueError, match="seed=0, now 1"):
        begin_output(path, {"seed": 1})
    (tmp_path / "mine.jsonl").write_text("precious")
    with pytest.raises(ValueError, match="not begun by this command"):
        begin_output(tmp_path / "mine.jsonl", {"seed": 0})
    with pytest.raises(ValueError, match="is a folder"):
        begin_output(tmp_path, {"seed": 0})
