"""Python source files as a corpus to pre-train on, by default the standard library's, and a tokenizer learned on them.

No download is needed: every Python installation has such a corpus, of about 4M tokens.
"""

import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.utils import logging

from prism_hf.fields import Positive, Seed, Share, check_arguments, check_value

from .byte_level_bpe import VocabularySize, learn_byte_level_bpe
from .splits import is_held_out
from .tokenizers import check_tokenizer

logger = logging.get_logger(__name__)

# Installed packages, and tests, some of which are no valid text on purpose.
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests"}


def python_files(
    folder: str | Path | None = None, held_out: Share = 0.05, seed: Seed = 0
) -> tuple[list[Path], list[Path]]:
    """The Python files under a folder, sorted: those to train on and those held out.

    Folders named test, tests, site-packages or dist-packages are left out.

    Args:
        folder (`str | Path`, *optional*): The standard library of the running interpreter if not given.
        held_out (`float`, *optional*, defaults to 0.05): About this share of the files is held out, by a hash of the
            path within the folder.
        seed (`int`, *optional*, defaults to 0): Of the hash.

    Raises:
        ValueError: if there is no such folder, or no file to train on in it.

    Example:
        ```python
        train_files, _ = python_files()
        tokenizer = train_byte_level_bpe(train_files)
        train_dataset = SourceFiles(train_files, tokenizer, length=128)
        ```
    """
    check_arguments(python_files, locals())
    folder = Path(sysconfig.get_path("stdlib") if folder is None else folder).expanduser()
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}; give one that holds .py files.")
    train: list[Path] = []
    evaluation: list[Path] = []
    for path in sorted(folder.rglob("*.py")):
        relative = path.relative_to(folder)
        if path.is_file() and LEFT_OUT.isdisjoint(relative.parts[:-1]):
            (evaluation if is_held_out(relative.as_posix(), held_out, seed) else train).append(path)
    if not train:
        raise ValueError(
            f"{folder} has no .py file to train on ({len(evaluation)} held out); folders named "
            f"{', '.join(sorted(LEFT_OUT))} are left out."
        )
    return train, evaluation


def read_sources(files: Sequence[str | Path]) -> Iterator[str]:
    """The texts of files; those that are no UTF-8 are left out with a warning."""
    for path in files:
        try:
            yield Path(path).read_bytes().decode("utf-8")
        except UnicodeDecodeError as error:
            logger.warning(f"{path} is left out: {error}.")


def train_byte_level_bpe(files: Sequence[str | Path], vocab_size: VocabularySize = 4096) -> PreTrainedTokenizerFast:
    """A byte-level BPE learned on files, with LLaDA's special tokens (EOS is the padding too) and turns of chat.

    Any text comes back as it was.

    Args:
        files (`Sequence[str | Path]`): Of text.
        vocab_size (`int`, *optional*, defaults to 4096): Less, where the files give too few merges.

    Raises:
        ValueError: if the vocabulary has no room for the 256 bytes and the special tokens.

    Example:
        ```python
        tokenizer = train_byte_level_bpe(["README.md"], vocab_size=512)
        ```
    """
    check_arguments(train_byte_level_bpe, locals())
    return learn_byte_level_bpe(read_sources(files), vocab_size)


class SourceFiles(torch.utils.data.Dataset):
    """Files as chunks of fixed length: their tokens one after another, EOS at the end of each file, cut evenly.

    An item holds `input_ids` (length,) long and `maskable` (length,) bool, all True. The rest that fills no chunk is
    dropped. A special token's name within a file is read as plain text.

    Args:
        files (`Sequence[str | Path]`): Of text.
        tokenizer (`PreTrainedTokenizerBase`): With a mask and an EOS token.
        length (`int`): Of a chunk.

    Raises:
        ValueError: if the tokenizer lacks a mask or EOS token, or the files give no chunk.

    Example:
        ```python
        train_files, eval_files = python_files("src")
        train = SourceFiles(train_files, train_byte_level_bpe(train_files), length=256)
        ```
    """

    def __init__(self, files: Sequence[str | Path], tokenizer: PreTrainedTokenizerBase, length: int):
        check_tokenizer(tokenizer)
        check_value("length", length, Positive, "SourceFiles")
        texts = list(read_sources(files))
        ids: list[int] = []
        if texts:
            for file_ids in tokenizer(texts, add_special_tokens=False, split_special_tokens=True).input_ids:
                ids += [*file_ids, tokenizer.eos_token_id]
        if len(ids) < length:
            raise ValueError(
                f"{len(texts)} files give {len(ids)} tokens, less than a chunk of length={length}; give more files."
            )
        self.input_ids = torch.tensor(ids[: len(ids) // length * length]).view(-1, length)

    def __len__(self) -> int:
        return len(self.input_ids)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        input_ids = self.input_ids[index]
        return {"input_ids": input_ids, "maskable": torch.ones_like(input_ids, dtype=torch.bool)}
