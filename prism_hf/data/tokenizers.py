"""What a tokenizer must have: refused, with the remedy, where it is missing or lacks that."""

import re

from transformers import AutoTokenizer, PreTrainedTokenizerBase


def read_tokenizer(
    name_or_path: str, revision: str = "main", trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, of a branch, tag or commit of the Hub, whose own code runs only where it is trusted.

    Raises:
        ValueError: for a model that has none, such as one of Sudoku, or one whose code is not trusted.
        OSError: for a name of no model, with that name.
    """
    problem = (
        f"{name_or_path} has no tokenizer of text, which is read and written here: name a model of text, or save its "
        "tokenizer beside it."
    )
    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, revision=revision, trust_remote_code=trust_remote_code)
    except ValueError as error:  # that sentencepiece is missing, where nothing is there to read with it
        if "trust_remote_code" in str(error):
            problem = (
                f"The tokenizer of {name_or_path} is code that comes with it: look at it, and set "
                "trust_remote_code=True to run it."
            )
        raise ValueError(problem) from error
    except OSError as error:  # which does not always say of what
        raise OSError(f"{name_or_path} is no model here, nor to be had from the Hub: {error}") from error
    if not has_vocabulary(tokenizer):
        raise ValueError(problem)
    return tokenizer


def has_vocabulary(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer knows more than its special tokens.

    Where a BERT's or a RoBERTa's files are missing, transformers builds one of these alone, with ids that are not the
    model's.
    """
    return not set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens)


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, apply_chat_template: bool = False) -> None:
    """Raise ValueError for a tokenizer that cannot make canvases, or has no template where that is to be applied."""
    if tokenizer.mask_token_id is None:
        candidates = [token for token in tokenizer.get_vocab() if re.fullmatch(r"\W+(\w*_)?mask\W+", token, re.I)]
        token = candidates[0] if candidates else "<|mdm_mask|>"
        where = "which its vocabulary has" if candidates else "which is LLaDA's; the model must know it too"
        raise ValueError(
            f"The tokenizer {tokenizer.name_or_path!r} has no mask token: set tokenizer.mask_token = {token!r}, "
            f"{where}."
        )
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"The tokenizer {tokenizer.name_or_path!r} has no EOS token to end and pad the code with: set "
            "tokenizer.eos_token, for a BERT to its sep_token."
        )
    if apply_chat_template:
        check_chat_template(tokenizer)


def check_chat_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise ValueError for a tokenizer that has no chat template to apply."""
    if tokenizer.chat_template is None:
        raise ValueError(
            f"The tokenizer {tokenizer.name_or_path!r} has no chat template: leave apply_chat_template off, or set "
            "tokenizer.chat_template."
        )
