"""An output that many processes write a part at a time, and that a killed run leaves usable.

Each process appends what it has done to a shard beside the output, a part a line, so that what a kill leaves is whole
parts. `<output>.settings.json` tells what the output depends on, and a run with other settings does not go on with it.
The shards go only after what was made of them is safe on the disk.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .lines import append_line, read_written, to_json, whole_lines, write_whole

SHARD = ".shard-"


def manifest_of(path: Path) -> Path:
    """The file beside an output that tells how it was made."""
    return path.with_name(f"{path.name}.manifest.json")


@dataclass(frozen=True)
class ResumableJsonl:
    """A JSONL file and, while it is not finished, its shards."""

    path: Path

    def begin(self, settings: dict[str, Any], read: Callable[[dict], dict] = lambda earlier: earlier) -> bool:
        """Keep what the output depends on in `<path>.settings.json`; whether the output is finished already.

        Given what an earlier version may have kept, `read` returns what this one keeps.

        Raises:
            ValueError: if an output, finished or not, of other settings is there, or one that is not known to be ours.
        """
        path, record = self.path, self.path.with_name(self.path.name + ".settings.json")
        if path.is_dir():
            raise ValueError(f"{path} is a folder; name a file for the output.")
        if record.exists():
            earlier, now = _entries(read(read_written(record.read_bytes(), str(record)))), _entries(settings)
            changed = sorted(name for name in {*earlier, *now} if earlier.get(name) != now.get(name))
            if changed:
                shown = ", ".join(f"{name}={earlier.get(name)!r}, now {now.get(name)!r}" for name in changed)
                raise ValueError(
                    f"{path} was begun with other settings ({shown}): name another file, or delete {record.name} and "
                    f"{path.name}*."
                )
        elif path.exists() or self._shards():
            raise ValueError(f"{path}* exists and was not begun by this command: delete it, or name another file.")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(record, [json.dumps(settings, indent=2, default=repr)])
        return path.exists()

    def append(self, part: int, rows: list[dict[str, Any]], process_index: int, seconds: float | None = None) -> None:
        """Add the rows of a part to the shard of a process, as one line, so that it is there as a whole or not."""
        append_line(self.shard(process_index), {"part": part, "seconds": seconds, "rows": rows})

    def parts(self) -> dict[int, list[dict[str, Any]]]:
        """The rows of each part that is in a shard, from however many processes."""
        return {part: line["rows"] for part, line in self._lines().items()}

    def seconds(self) -> float | None:
        """How long the parts took, added over the processes; None where an earlier version has made some."""
        taken = [line.get("seconds") for line in self._lines().values()]
        return None if None in taken else round(sum(taken), 2)

    def _lines(self) -> dict[int, dict[str, Any]]:
        return {line["part"]: line for shard in self._shards() for line in whole_lines(shard)}

    def rows(self, parts: Sequence[int]) -> list[dict[str, Any]]:
        """The rows of parts, in this order. Raises ValueError if one is in no shard."""
        done = self.parts()
        missing = [part for part in parts if part not in done]
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(parts)} parts of {self.path} are missing, first {missing[0]}: do all "
                "processes see one file system? Start again to make them."
            )
        return [row for part in parts for row in done[part]]

    def finish(
        self,
        parts: Sequence[int],
        describe: Callable[[list[dict[str, Any]]], dict[str, Any]] | None = None,
        as_rows: Callable[[list[dict[str, Any]]], list[dict[str, Any]]] = lambda rows: rows,
    ) -> None:
        """Write the output whole from the shards, which go then, unless it is written already. Raises as `rows`.

        What `describe` tells of the rows of its parts is written to `<path>.manifest.json` before, with `seconds` where
        it tells none. The output holds what `as_rows` makes of them.
        """
        if not self.path.exists():
            rows = self.rows(parts)
            if describe is not None:
                manifest = {"seconds": self.seconds()} | describe(rows)
                write_whole(manifest_of(self.path), [to_json(manifest, indent=2, ensure_ascii=False)])
            write_whole(self.path, (to_json(row, ensure_ascii=False) for row in as_rows(rows)))
        self.drop_shards()

    def drop_shards(self) -> None:
        """Remove the shards, of which something has been made."""
        for shard in self._shards():
            shard.unlink()

    def move_shards(self, other: "ResumableJsonl") -> None:
        """Let another output go on with what this one's runs have done."""
        for shard in self._shards():
            shard.replace(other.path.with_name(other.path.name + shard.name.removeprefix(self.path.name)))

    def shard(self, process_index: int) -> Path:
        """Where a process keeps what it has done."""
        return self.path.with_name(f"{self.path.name}{SHARD}{process_index:05d}")

    def _shards(self) -> list[Path]:
        pattern = re.compile(re.escape(self.path.name + SHARD) + r"\d+")
        return sorted(each for each in self.path.parent.glob("*") if pattern.fullmatch(each.name))


def _entries(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as JSON holds them, those of a mapping each by itself."""
    entries: dict[str, Any] = {}
    for name, value in json.loads(json.dumps(settings, default=repr)).items():
        own = {f"{name}.{key}": each for key, each in value.items()} if isinstance(value, dict) else {name: value}
        entries |= own
    return entries
