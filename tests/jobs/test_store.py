"""An output that is made a part at a time."""

import pytest

from prism_hf.jobs.lines import whole_lines
from prism_hf.jobs.store import ResumableJsonl


def test_an_output_is_not_made_of_what_is_missing_or_anothers(tmp_path):
    path = tmp_path / "folder" / "out.jsonl"
    output = ResumableJsonl(path)
    assert not output.begin({"seed": 0})
    output.append(0, [{"a": "é\u2028"}], 1)
    output.append(2, [{"a": 3}], 0)
    with pytest.raises(ValueError, match="1 of 3 parts .* first 1"):
        output.finish(range(3))
    output.append(1, [{"a": 2}, {"a": 2}], 0)
    output.finish(range(3))
    assert path.read_bytes().decode() == '{"a": "é\u2028"}\n{"a": 2}\n{"a": 2}\n{"a": 3}\n'
    assert output.begin({"seed": 0})
    with pytest.raises(ValueError, match="seed=0, now 1"):
        output.begin({"seed": 1})
    (tmp_path / "mine.jsonl").write_text("precious")
    with pytest.raises(ValueError, match="not begun by this command"):
        ResumableJsonl(tmp_path / "mine.jsonl").begin({"seed": 0})
    with pytest.raises(ValueError, match="is a folder"):
        ResumableJsonl(tmp_path).begin({"seed": 0})


@pytest.mark.parametrize("kept", [b'{"a": 1}{"a": 2}', b"[1]", b"\xff", b""])
def test_damaged_settings_are_named_with_their_remedy(tmp_path, kept):
    (tmp_path / "rows.jsonl.settings.json").write_bytes(kept)
    with pytest.raises(ValueError, match=r"rows\.jsonl\.settings\.json .*delete it"):
        ResumableJsonl(tmp_path / "rows.jsonl").begin({"seed": 0})


def test_shards_stay_where_the_output_has_no_room(tmp_path, files_up_to):
    path = tmp_path / "out.jsonl"
    output = ResumableJsonl(path)
    output.begin({"seed": 0})
    for index in range(2):
        output.append(index, [{"a": "x" * 100}], index)
    with files_up_to(150), pytest.raises(OSError, match=r"out\.jsonl"):
        output.finish(range(2))
    assert {each.name for each in tmp_path.iterdir()} == {
        "out.jsonl.settings.json",
        "out.jsonl.shard-00000",
        "out.jsonl.shard-00001",
    }
    output.finish(range(2))
    assert [row["a"] for row in whole_lines(path)] == ["x" * 100] * 2
