"""recipes/chat.py in a terminal: what is on the screen when all drafts are gone."""

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
import torch

from prism_hf import LladaForMaskedDiffusion, remask_generate
from prism_hf.generation.streaming import MASK_SIGN, TerminalDraftStreamer, rows_of

RECIPE = Path(__file__).parents[2] / "recipes" / "chat.py"
ROWS, COLUMNS = 8, 120
ESCAPE = re.compile(r"\x1b(?:\[([?\d;]*)([A-Za-z])|([D78]))")


class Screen:
    """A terminal of the VT100 family, as far as a chat needs one, with all rows that scrolled out of sight."""

    def __init__(self):
        self.rows, self.top, self.row, self.column, self.saved = [[] for _ in range(ROWS)], 0, 0, 0, (0, 0)

    def feed(self, text):
        position = 0
        while position < len(text):
            if escape := ESCAPE.match(text, position):
                position = escape.end()
                self.control(escape[1], escape[2] or escape[3])
                continue
            self.put(text[position])
            position += 1
        return self

    def put(self, char):
        if char == "\r":
            self.column = 0
        elif char == "\n":
            self.down()
        elif char == "\t":
            self.column = min(self.column // 8 * 8 + 8, COLUMNS - 1)
        elif char == "\b":
            self.column = max(self.column - 1, 0)
        elif char.isprintable() or char == "\ufffd":
            if self.column == COLUMNS:
                self.column = 0
                self.down()
            row = self.rows[self.row]
            row.extend(" " * (self.column + 1 - len(row)))
            row[self.column] = char
            self.column += 1

    def down(self):
        self.row += 1
        if self.row == self.top + ROWS:
            self.top += 1
            self.rows.append([])

    def control(self, argument, kind):
        self.column = min(self.column, COLUMNS - 1)  # an escape between a full row and the next character stays on it
        if kind == "A":
            self.row = max(self.row - int(argument or 1), self.top)
        elif kind == "D" and argument is None:
            self.down()
        elif kind == "7":
            self.saved = (self.row - self.top, self.column)
        elif kind == "8":
            self.row, self.column = self.top + self.saved[0], self.saved[1]
        elif kind == "J":
            del self.rows[self.row][self.column :]
            self.rows[self.row + 1 :] = [[] for _ in self.rows[self.row + 1 :]]
        else:
            assert kind == "m" or argument.startswith("?"), f"unknown escape {argument}{kind}"

    def text(self):
        return "\n".join("".join(row).rstrip() for row in self.rows).rstrip()


def in_a_terminal(command, turns):
    """What the command writes to a terminal, from its first prompt on, if each is answered by the next of `turns`."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        command, stdin=follower, stdout=follower, stderr=follower, env=environment | {"TERM": "xterm"}
    )
    os.close(follower)
    written, turns = b"", list(turns)
    while True:
        try:
            written += os.read(leader, 65536)
        except OSError:  # the other end is closed
            break
        if turns and written.endswith(b"> "):
            os.write(leader, turns.pop(0).encode() + b"\n")
    os.close(leader)
    assert process.wait() == 0 and not turns, written.decode(errors="replace")
    written = written.decode()
    return written[written.index("> ") :]


@pytest.fixture
def chat_model(text_model, text_tokenizer, tmp_path):
    text_model().save_pretrained(tmp_path)
    text_tokenizer.save_pretrained(tmp_path)
    return tmp_path, text_tokenizer


def test_drafts_leave_no_trace(chat_model):
    folder, tokenizer = chat_model
    model = LladaForMaskedDiffusion.from_pretrained(folder)
    generation = {"max_new_tokens": 48, "block_length": 16, "steps": 12}
    turns, messages, expected = ["def f(x):", "return", "x = 1"], [], ""
    for turn in turns:
        messages.append({"role": "user", "content": turn})
        ids = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        ).input_ids
        new = remask_generate(model, ids, eos_token_id=tokenizer.eos_token_id, **generation)[0, ids.shape[1] :]
        messages.append({"role": "assistant", "content": tokenizer.decode(new, skip_special_tokens=True)})
        expected += f"> {turn}\n{messages[-1]['content']}\n"
    command = [sys.executable, str(RECIPE), "--model_name_or_path", str(folder), "--use_cpu", "true"]
    written = in_a_terminal([*command, "--generation", json.dumps(generation)], [*turns, "/exit"])
    assert "\x1b[33m" in written and MASK_SIGN in written
    assert Screen().feed(written).text() == Screen().feed(f"{expected}> /exit".replace("\n", "\r\n")).text()


class CharacterTokenizer:
    """One token a character: its code point."""

    def decode(self, ids, **kwargs):
        ids = torch.as_tensor(ids).flatten().tolist()
        return "".join(map(chr, ids))


@pytest.mark.parametrize("length", [COLUMNS - 3, COLUMNS, COLUMNS + 2])
def test_draft_spares_a_row_that_the_text_has_filled(length, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    monkeypatch.setenv("LINES", str(ROWS))
    streamer = TerminalDraftStreamer(CharacterTokenizer(), mask_token_id=0)
    streamer.put(torch.full((1, length), ord("a")))
    streamer.put_draft(torch.zeros(1, 4, dtype=torch.long))
    streamer.put(torch.full((1, 4), ord("b")))
    streamer.end()
    screen = Screen().feed(capsys.readouterr().out.replace("\n", "\r\n"))
    text = "a" * length + "b" * 4
    assert screen.text() == f"{text[:COLUMNS]}\n{text[COLUMNS:]}"


def test_wide_characters_take_two_columns():
    assert [len(row) for row in rows_of("\u4f60" * 100, 120)] == [60, 40]
    assert rows_of("e\u0301" * 120, 120) == ["e\u0301" * 120]
