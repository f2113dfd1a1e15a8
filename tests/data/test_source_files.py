import random
import sysconfig

import pytest
import torch
from transformers import AutoTokenizer

from prism_hf.data import SourceFiles, python_files, train_byte_level_bpe

SPECIAL = ["<|startoftext|>", "<|endoftext|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|mdm_mask|>"]
ODD = "x = '<|mdm_mask|> é 漢 \\x00'\r\n\tif  x :\n\n\n    pass # <|endoftext|>\n"


@pytest.fixture
def folder(tmp_path):
    texts = {
        "a.py": "def add(x, y):\n    return x + y\n" * 20,
        "pkg/b.py": ODD,
        "pkg/tests/test_b.py": "left out",
        "site-packages/c.py": "left out",
        "pkg/notes.txt": "left out",
        **{f"more/{n}.py": f"value_{n} = {n}\n" * (n + 1) for n in range(40)},
    }
    for name, text in texts.items():
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    return tmp_path / "folder"


def test_files_are_split_as_wholes(folder):
    train, held_out = python_files(folder, held_out=0.25, seed=3)
    expected = {folder / "a.py", folder / "pkg/b.py", *(folder / f"more/{n}.py" for n in range(40))}
    assert {*train, *held_out} == expected and len(train) + len(held_out) == len(expected)
    assert train == sorted(train) and 0 < len(held_out) < 25
    assert python_files(folder, held_out=0.25, seed=3) == (train, held_out)
    assert python_files(folder, held_out=0.25, seed=4) != (train, held_out)
    assert python_files(folder, held_out=0)[1] == []
    # The same files elsewhere are split alike.
    moved = folder.rename(folder.with_name("elsewhere"))
    names = [path.relative_to(folder) for path in train]
    assert [path.relative_to(moved) for path in python_files(moved, held_out=0.25, seed=3)[0]] == names


def test_standard_library_is_the_default():
    train, held_out = python_files()
    names = {path.relative_to(sysconfig.get_path("stdlib")).as_posix() for path in train + held_out}
    assert {"ast.py", "json/decoder.py"} <= names
    assert not any("site-packages" in name for name in names)
    assert 0.01 < len(held_out) / len(names) < 0.1


def test_tokenizer_keeps_any_text_and_survives_saving(folder, tmp_path):
    tokenizer = train_byte_level_bpe(python_files(folder, held_out=0)[0], vocab_size=300)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    text = "".join(map(chr, random.Random(0).sample(range(0xD000), 500))) + ODD
    for one in (tokenizer, loaded):
        assert len(one) == 300
        assert one.decode(one(text, split_special_tokens=True).input_ids) == text
        assert [one.decode([one.convert_tokens_to_ids(token)]) for token in SPECIAL] == SPECIAL
        assert all(len(one(token).input_ids) == 1 for token in SPECIAL)
        assert (one.mask_token, one.eos_token, one.pad_token) == ("<|mdm_mask|>", "<|endoftext|>", "<|endoftext|>")
    chat = [{"role": "user", "content": " Hi \n"}, {"role": "assistant", "content": "Ho"}]
    user = "<|startoftext|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
    assistant = "<|start_header_id|>assistant<|end_header_id|>\n\n"
    assert loaded.apply_chat_template(chat[:1], tokenize=False, add_generation_prompt=True) == user + assistant
    assert loaded.apply_chat_template(chat, tokenize=False) == user + assistant + "Ho<|eot_id|>"
    # It has learned from the files: a word that they repeat is one token.
    assert len(tokenizer("value").input_ids) == 1


def test_chunks_spell_the_files(folder):
    files = python_files(folder, held_out=0)[0]
    tokenizer = train_byte_level_bpe(files, vocab_size=300)
    chunks = SourceFiles(files, tokenizer, length=16)
    written = "".join(path.read_bytes().decode() + "<|endoftext|>" for path in files)
    spelled = tokenizer.decode(torch.cat([chunks[i]["input_ids"] for i in range(len(chunks))]))
    assert written.startswith(spelled[:-1]) and len(written) - len(spelled) < 16 * 20
    assert all(chunk["input_ids"].shape == (16,) and chunk["maskable"].all() for chunk in chunks)
    ids = torch.stack([chunk["input_ids"] for chunk in chunks])
    assert not (ids == tokenizer.mask_token_id).any()  # though a file holds its name
    assert (ids == tokenizer.eos_token_id).sum() in (len(files) - 1, len(files))
    assert chunks[0]["maskable"].dtype == torch.bool and ids.dtype == torch.long


def test_files_of_other_encodings_are_left_out(folder, caplog):
    files = [folder / "a.py"]
    tokenizer = train_byte_level_bpe(files, vocab_size=262)
    (folder / "latin.py").write_bytes("é".encode("latin-1"))
    with_latin = SourceFiles([*files, folder / "latin.py"], tokenizer, length=8)
    assert torch.equal(with_latin.input_ids, SourceFiles(files, tokenizer, length=8).input_ids)
    assert any("latin.py is left out" in message for message in caplog.messages)


def test_mistakes(folder, tmp_path):
    tokenizer = train_byte_level_bpe([folder / "a.py"], vocab_size=262)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no folder .*nowhere"):
        python_files(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"no \.py file to train on"):
        python_files(tmp_path / "empty")
    with pytest.raises(ValueError, match="held_out=1"):
        python_files(folder, held_out=1)
    with pytest.raises(ValueError, match="vocab_size=261 must be an integer of at least 262"):
        train_byte_level_bpe([folder / "a.py"], vocab_size=261)
    with pytest.raises(ValueError, match="1 files give .* less than a chunk of length=10000"):
        SourceFiles([folder / "a.py"], tokenizer, length=10000)
    with pytest.raises(ValueError, match="0 files"):
        SourceFiles([], tokenizer, length=8)
    with pytest.raises(ValueError, match="length=0"):
        SourceFiles([folder / "a.py"], tokenizer, length=0)
    tokenizer.mask_token = None
    with pytest.raises(ValueError, match="no mask token"):
        SourceFiles([folder / "a.py"], tokenizer, length=8)
