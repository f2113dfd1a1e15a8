"""Documents of text to rows of tokens: blocks that are cut from all of them, or one row a document."""

from pathlib import Path
from typing import Annotated, Any, TypeAlias

from datasets import Dataset, Features, IterableDataset, List, Value
from transformers import PreTrainedTokenizerBase

from prism_hf.data.files import DocumentUnit
from prism_hf.data.loading import Rows
from prism_hf.fields import Allowed, Positive, check_arguments, check_names

from .blocks import TextBlocks, TextStream
from .detokenizers import DETOKENIZERS
from .loading import load_text, split_text

BlockLength = Annotated[int, Allowed(min=3, remedy="It counts the BOS and the EOS.")]
TextRows: TypeAlias = Rows | TextBlocks | TextStream
DOCUMENTS = Features({"input_ids": List(Value("int32")), "num_tokens": Value("int32")})
ROWS = Features({"input_ids": List(Value("int32")), "maskable": List(Value("bool"))})


def load_text_datasets(
    path: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    name: str | None = None,
    split: str = "train",
    streaming: bool = False,
    column: str = "text",
    sample_by: DocumentUnit = "paragraph",
    held_out: float = 0.05,
    seed: int = 0,
    num_proc: int | None = None,
    **kwargs: Any,
) -> tuple[TextRows, TextRows | None]:
    """Rows to train on and rows held out: `load_text`, then `split_text`, then `encode_text` (kwargs).

    Example:
        ```python
        train, held_out = load_text_datasets("openwebtext", tokenizer, held_out=100_000, num_proc=16)
        trainer = MaskedDiffusionTrainer(model, args, train_dataset=train, eval_dataset=held_out)
        ```
    """
    rows = load_text(path, name, split, streaming, column, sample_by)
    train, evaluation = split_text(rows, held_out, seed, num_proc)
    return encode_both(train, evaluation, str(path), tokenizer=tokenizer, num_proc=num_proc, **kwargs)


def encode_both(train: Rows, held_out: Rows | None, label: str, **kwargs: Any) -> tuple[TextRows, TextRows | None]:
    """`encode_text` (kwargs) of the documents to train on and of those held out, if there are any."""
    encoded = encode_text(train, label=f"{label}, training", **kwargs)
    return encoded, None if held_out is None else encode_text(held_out, label=f"{label}, held out", **kwargs)


def encode_text(
    rows: Rows,
    tokenizer: PreTrainedTokenizerBase,
    length: BlockLength = 1024,
    wrap: bool = True,
    detokenizer: str | None = None,
    num_proc: Positive | None = None,
    label: str = "text",
) -> TextRows:
    """Rows of tokens, all of them to be learned, BOS and EOS included, as MDLM and PRISM learn OpenWebText.

    Wrapped, the documents stand one after another, each with EOS at its end, and every row is BOS, `length - 2` tokens
    and EOS. Not wrapped, a row is BOS, the first `length - 2` tokens of a document, and EOS. A tokenizer without BOS
    gives its CLS, or its EOS; one without EOS its SEP. The name of a special token within a text is read as plain text.

    What was tokenized is kept by `datasets` and found again; a stream is tokenized as it is read, and stays in order:
    shuffle its documents with `rows.shuffle(seed=..., buffer_size=...)` before.

    Args:
        rows (`Dataset | IterableDataset`): With a column `text`, as `load_text` gives them.
        tokenizer (`PreTrainedTokenizerBase`): With EOS or SEP. The mask token may be the model's alone.
        length (`int`, *optional*, defaults to 1024): Of a wrapped row; of others, the longest.
        wrap (`bool`, *optional*, defaults to `True`): Cut all documents to rows of one length, or give each a row.
        detokenizer (`str`, *optional*): Undoes the tokenization that a corpus comes in: `"wikitext"`, `"ptb"`,
            `"lm1b"`, `"lambada"` or `"scientific_papers"`.
        num_proc (`int`, *optional*): Processes that tokenize, not of a stream.
        label (`str`, *optional*, defaults to `"text"`): Names the rows in messages.

    Raises:
        ValueError: if the tokenizer lacks an end, no detokenizer has the name, a row is no text, or the
            rows give no block.

    Example:
        ```python
        blocks = encode_text(load_text("prose.jsonl"), tokenizer, length=16)
        ```
    """
    check_arguments(encode_text, locals())
    if detokenizer is not None:
        check_names("detokenizer", [detokenizer], DETOKENIZERS)
    eos = _first_id(tokenizer, "eos_token", "sep_token")
    bos = _first_id(tokenizer, "bos_token", "cls_token", "eos_token", "sep_token")
    kwargs: dict[str, Any] = {
        "batched": True,
        "remove_columns": ["text"],
        "features": DOCUMENTS if wrap else ROWS,
        "fn_kwargs": {"tokenizer": tokenizer, "eos_token_id": eos, "detokenizer": detokenizer, "label": label},
    }
    if not wrap:
        kwargs["fn_kwargs"] |= {"length": length, "bos_token_id": bos}
    if isinstance(rows, Dataset):
        kwargs |= {"num_proc": num_proc, "desc": f"Tokenizing {label}"}
    tokens = rows.select_columns(["text"]).map(document_batch if wrap else row_batch, **kwargs)
    if not wrap:
        return tokens.with_format("torch")
    if isinstance(tokens, IterableDataset):
        return TextStream(tokens, length, bos, eos)
    blocks = TextBlocks(tokens, length, bos, eos)
    if not len(blocks):
        raise ValueError(
            f"{label}: {len(rows)} documents give {blocks.ends[-1]} tokens, less than a block of length={length}; give "
            "more text, or a smaller length."
        )
    return blocks


def _first_id(tokenizer: PreTrainedTokenizerBase, *names: str) -> int:
    for name in names:
        if (token := getattr(tokenizer, name)) is not None:
            return tokenizer.get_vocab()[str(token)]
    raise ValueError(
        f"The tokenizer {tokenizer.name_or_path!r} has neither an EOS nor a SEP token to end documents with: set "
        "tokenizer.eos_token."
    )


def document_batch(batch: dict[str, list], eos_token_id: int, **kwargs: Any) -> dict[str, list]:
    """Columns `DOCUMENTS` of a batch."""
    documents = [[*ids, eos_token_id] for ids in token_ids(batch["text"], **kwargs)]
    return {"input_ids": documents, "num_tokens": [len(ids) for ids in documents]}


def row_batch(
    batch: dict[str, list], length: int, bos_token_id: int, eos_token_id: int, **kwargs: Any
) -> dict[str, list]:
    """Columns `ROWS` of a batch."""
    rows = [[bos_token_id, *ids[: length - 2], eos_token_id] for ids in token_ids(batch["text"], **kwargs)]
    return {"input_ids": rows, "maskable": [[True] * len(row) for row in rows]}


def token_ids(
    texts: list[Any], tokenizer: PreTrainedTokenizerBase, detokenizer: str | None, label: str
) -> list[list[int]]:
    """The tokens of texts alone."""
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"{label}: a document is {text!r:.80}, which is no text; leave such rows out.")
    if detokenizer is not None:
        texts = [DETOKENIZERS[detokenizer](text) for text in texts]
    return tokenizer(
        texts,
        add_special_tokens=False,
        split_special_tokens=True,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,  # that a document is longer than the model
    ).input_ids
