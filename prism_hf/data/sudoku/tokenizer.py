"""Sudoku as text."""

from typing import Any

from transformers import PreTrainedTokenizer


class SudokuTokenizer(PreTrainedTokenizer):
    r"""One character a token: `.` (blank, the mask token) is 0, digits are themselves, `\n` (end of row) is 10.

    A grid is nine lines of nine characters, without a newline after the last: 89 tokens.

    Args:
        mask_token (`str`, *optional*, defaults to `"."`): Stands for a blank.
        kwargs: To `PreTrainedTokenizer`.

    Example:
        ```python
        >>> SudokuTokenizer()("53..7....").input_ids
        [5, 3, 0, 0, 7, 0, 0, 0, 0]
        ```
    """

    model_input_names = ["input_ids", "attention_mask"]

    def __init__(self, mask_token: str = ".", **kwargs: Any):
        self._ids = {character: i for i, character in enumerate(".123456789\n")}
        self._characters = list(self._ids)
        super().__init__(mask_token=mask_token, **kwargs)

    @property
    def vocab_size(self) -> int:
        return len(self._ids)

    def get_vocab(self) -> dict[str, int]:
        return {**self._ids, **self.added_tokens_encoder}

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        for character in text:
            if character not in self._ids:
                raise ValueError(f"{character!r} is no Sudoku character; write '.' for a blank, 1 to 9, and newlines.")
        return list(text)

    def _convert_token_to_id(self, token: str) -> int:
        return self._ids[token]

    def _convert_id_to_token(self, index: int) -> str:
        if not 0 <= index < len(self._characters):
            raise ValueError(f"The id {index} is no Sudoku token: those are 0 to {len(self._characters) - 1}.")
        return self._characters[index]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return "".join(tokens)

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        return ()  # the vocabulary is fixed
