"""What a recipe trains on: rows of any dataset, by TRL's names, or a preparation of ours, by its name."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, TypeAlias

from torch.utils.data import Dataset, IterableDataset
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging
from trl import DatasetMixtureConfig, ScriptArguments, get_dataset
from trl.scripts.utils import DatasetConfig

from prism_hf._deprecation import warn_renamed
from prism_hf.fields import Allowed, Count, NotNegative, Positive, build_config, check_fields

from .byte_level_bpe import learn_byte_level_bpe
from .files import DocumentUnit
from .source_files import SourceFiles, python_files, train_byte_level_bpe
from .sudoku.datasets import NUM_PUZZLES, SolvedGrids, SudokuGrids
from .sudoku.grids import Layout
from .sudoku.puzzles import Blanks
from .sudoku.tokenizer import SudokuTokenizer
from .tokenizers import read_tokenizer

logger = logging.get_logger(__name__)

Loaded: TypeAlias = tuple[Dataset | IterableDataset, Dataset | IterableDataset | None, PreTrainedTokenizerBase]
ReadTokenizer: TypeAlias = Callable[[], PreTrainedTokenizerBase]
DATASETS = ("rows", "sudoku", "source_files", "code", "text")
UNREAD = Annotated[bool, Allowed(choices=(False,), remedy="No model here has bias buffers: leave it out.")]


@dataclass
class DataArguments(ScriptArguments, DatasetMixtureConfig):
    """Which data, as fields of a recipe: [`~trl.ScriptArguments`], [`~trl.DatasetMixtureConfig`] and those below.

    Example:
        ```python
        data_args = DataArguments(dataset_name="trl-lib/Capybara")
        data_args = DataArguments(dataset="source_files", dataset_name="src", length=256)
        ```
    """

    dataset: str | None = field(
        default=None,
        metadata={
            "help": "`rows`: those of dataset_name or datasets as they are, the default where one is given. `sudoku`: "
            "random grids, or those of the CSV file dataset_name. `source_files`: Python files of the folder "
            "dataset_name, or the standard library's. `code`: instructions and code, of dataset_name or datasets. "
            "`text`: documents of dataset_name, as blocks of one length.",
            "choices": DATASETS,
        },
    )
    dataset_path: str | None = field(
        default=None, metadata={"help": "Old name of dataset_name; dataset_name then is dataset_config."}
    )
    held_out: NotNegative = field(
        default=0.05,
        metadata={
            "help": "`source_files`, `code`, `text`: share to evaluate on. `text`: a whole number is so many of the "
            "last documents, 0 the documents of dataset_test_split."
        },
    )
    tokenizer_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Tokenizer of text; if not given the model's, or for `source_files` and `text` without a model a "
            "new one."
        },
    )
    mask_token: str | None = field(
        default=None, metadata={"help": "The mask token, for a tokenizer that does not name its own."}
    )
    length: Positive | None = field(
        default=None, metadata={"help": "`source_files`, `text`: tokens of a row; 1024 if not given."}
    )
    wrap: bool = field(
        default=True,
        metadata={"help": "`text`: cut rows from all documents, one after another; if not, a row has one document."},
    )
    sample_by: DocumentUnit = field(default="paragraph", metadata={"help": "`text`: a document of a plain text file."})
    detokenizer: str | None = field(
        default=None,
        metadata={
            "help": "`text`: undo the tokenization that a corpus comes in: wikitext, ptb, lm1b, lambada or "
            "scientific_papers."
        },
    )
    vocab_size: Positive = field(default=4096, metadata={"help": "Of a new tokenizer."})
    apply_chat_template: bool = field(default=False, metadata={"help": "`code`: as turns of a chat."})
    layout: Layout = field(default=89, metadata={"help": "`sudoku`: 89 tokens with ends of rows, or the 81 cells."})
    num_train_samples: Positive = field(
        default=48_000, metadata={"help": "`sudoku`: random grids, without dataset_name."}
    )
    num_eval_samples: Count = field(default=1_000, metadata={"help": "`sudoku`: random grids held out, or 0."})
    num_eval_puzzles: Count = field(
        default=0, metadata={"help": "Old name of num_eval_generations, beside predict_with_generate."}
    )
    blanks: Blanks | None = field(
        default=None,
        metadata={"help": "`sudoku`: random puzzles with so many blanks and one solution, their givens as prompt."},
    )
    eval_blanks: Blanks | None = field(
        default=None, metadata={"help": "`sudoku`: those of the grids held out; as `blanks` if not given."}
    )

    def __post_init__(self) -> None:
        if self.dataset_path is not None:
            warn_renamed("dataset_path of a recipe", "dataset_name (and dataset_name dataset_config)")
            self.dataset = self.dataset or "sudoku"
            self.dataset_config, self.dataset_name, self.dataset_path = self.dataset_name, self.dataset_path, None
        if self.streaming and not self.datasets:
            warn_renamed("streaming of dataset_name", "dataset_streaming")
            self.streaming, self.dataset_streaming = False, True
        self.datasets = [
            build_config(DatasetConfig, each, "datasets") if isinstance(each, dict) else each for each in self.datasets
        ]
        if self.eval_blanks is None:
            self.eval_blanks = 51 if self.blanks is None and self.num_eval_puzzles else self.blanks
        super().__post_init__()
        check_fields(self, {"ignore_bias_buffers": UNREAD})
        if self.dataset is None:
            self.dataset = "rows" if self.dataset_name or self.datasets else "sudoku"
        self._check_sense()

    def _check_sense(self) -> None:
        """Raise ValueError for fields that do not go with the dataset."""
        if self.num_eval_puzzles and self.dataset != "sudoku":
            raise ValueError(f"num_eval_puzzles={self.num_eval_puzzles} is for dataset='sudoku': leave it out.")
        if self.length is not None and self.dataset in ("rows", "code"):
            raise ValueError(
                f"length={self.length} is for dataset='source_files' or 'text'. Of {self.dataset}, arguments of the "
                f"trainer say how long a row is: max_length={self.length} cuts it, and "
                f"pad_to_multiple_of={self.length} with learn_padding=True fills it up."
            )
        if self.dataset == "text" and not self.dataset_name:
            raise ValueError(
                "dataset='text' needs dataset_name: a text, JSONL or Parquet file, a folder, or a name on the Hub."
            )
        if self.dataset in ("rows", "code") and not (self.dataset_name or self.datasets):
            raise ValueError(
                f"dataset={self.dataset!r} needs dataset_name, a JSONL or Parquet file, a folder, or a name on the "
                "Hub, or datasets, a mixture of such."
            )
        if self.datasets and self.dataset in ("sudoku", "source_files", "text"):
            raise ValueError(f"datasets are read for dataset='rows' or 'code', not {self.dataset!r}: leave one out.")


def load_training_data(
    args: DataArguments,
    seed: int,
    model_name_or_path: str | None = None,
    evaluates: bool = True,
    text_field: str = "text",
    num_proc: int | None = None,
    trust_remote_code: bool = False,
) -> Loaded:
    """Training data, held-out data and their tokenizer.

    Args:
        args (`DataArguments`): Which data.
        seed (`int`): Of random grids and of the split.
        model_name_or_path (`str`, *optional*): Whose tokenizer reads text, where `args` names none.
        evaluates (`bool`, *optional*, defaults to `True`): Whether the test split of `rows` or `text` is read too.
        text_field (`str`, *optional*, defaults to `"text"`): The column of `text`.
        num_proc (`int`, *optional*): Processes that tokenize `text`.
        trust_remote_code (`bool`, *optional*, defaults to `False`): Whether code that comes with a tokenizer may run.

    Raises:
        ValueError: if the data cannot be had as asked for.

    Example:
        ```python
        data_args = DataArguments(dataset="source_files", length=128)
        train, held_out, tokenizer = load_training_data(data_args, seed=0)
        ```
    """
    if args.dataset == "sudoku":
        return _load_sudoku(args, seed)
    source = args.tokenizer_name_or_path or model_name_or_path
    read = None if source is None else partial(_read_tokenizer, args, source, trust_remote_code)
    if args.dataset == "source_files":
        return _load_source_files(args, seed, read)
    if args.dataset == "text":
        return _load_text(args, seed, read, evaluates, text_field, num_proc)
    if read is None:
        raise ValueError(f"dataset={args.dataset!r} needs tokenizer_name_or_path, or a model that has a tokenizer.")
    if args.dataset == "code":
        tokenizer = read()
        return (*_load_code(args, seed, tokenizer), tokenizer)
    return (*_load_rows(args, evaluates), read())  # a mistyped path is told first


def load_evaluation_data(
    args: DataArguments,
    seed: int,
    model_name_or_path: str | None = None,
    text_field: str = "text",
    num_proc: int | None = None,
    trust_remote_code: bool = False,
) -> tuple[Dataset | IterableDataset, PreTrainedTokenizerBase]:
    """What a trained model is evaluated on, and its tokenizer.

    Of `text` only that is read and tokenized: what `held_out` takes of the training split, or with 0 the test split. Of
    other data it is what `load_training_data` holds out, or all where nothing is.

    Args:
        args, seed, model_name_or_path, text_field, num_proc, trust_remote_code: See `load_training_data`.

    Raises:
        ValueError: if the data cannot be had as asked for.

    Example:
        ```python
        data_args = DataArguments(dataset="source_files", length=128)
        held_out, tokenizer = load_evaluation_data(data_args, seed=0)
        ```
    """
    if args.dataset != "text":
        train, held_out, tokenizer = load_training_data(
            args, seed, model_name_or_path, True, text_field, num_proc, trust_remote_code
        )
        return train if held_out is None else held_out, tokenizer
    from .text.encoding import encode_text
    from .text.loading import load_text, split_text

    source = args.tokenizer_name_or_path or model_name_or_path
    if source is None:
        raise ValueError("dataset='text' needs tokenizer_name_or_path, or a model that has a tokenizer.")
    split = args.dataset_train_split if args.held_out else args.dataset_test_split
    documents = load_text(
        str(args.dataset_name), args.dataset_config, split, args.dataset_streaming, text_field, args.sample_by
    )
    if args.held_out:
        _, documents = split_text(documents, args.held_out, seed, num_proc)
    tokenizer = _read_tokenizer(args, source, trust_remote_code)
    return encode_text(documents, tokenizer, label=str(args.dataset_name), **_encoding(args, num_proc)), tokenizer


def _encoding(args: DataArguments, num_proc: int | None) -> dict[str, Any]:
    """What `encode_text` is told of `text`."""
    return {
        "length": args.length or 1024,
        "wrap": args.wrap,
        "detokenizer": args.detokenizer,
        "num_proc": num_proc,
    }


def _load_sudoku(args: DataArguments, seed: int) -> Loaded:
    train: Dataset = (
        SudokuGrids(args.num_train_samples, seed + 1, args.layout, args.blanks)
        if args.dataset_name is None
        else SolvedGrids(args.dataset_name)
    )
    held_out, number = None, args.num_eval_samples
    if number:
        held_out = SudokuGrids(number, seed, args.layout, args.eval_blanks, num_puzzles=min(number, NUM_PUZZLES))
    return train, held_out, SudokuTokenizer()


def _load_source_files(args: DataArguments, seed: int, read: ReadTokenizer | None) -> Loaded:
    length = args.length or 1024
    train_files, eval_files = python_files(args.dataset_name, args.held_out, seed)
    tokenizer = train_byte_level_bpe(train_files, args.vocab_size) if read is None else read()
    held_out = SourceFiles(eval_files, tokenizer, length) if eval_files else None
    return SourceFiles(train_files, tokenizer, length), held_out, tokenizer


def _load_text(
    args: DataArguments,
    seed: int,
    read: ReadTokenizer | None,
    evaluates: bool,
    text_field: str,
    num_proc: int | None,
) -> Loaded:
    from .text.encoding import encode_both
    from .text.loading import load_text, split_text

    read_split = partial(load_text, column=text_field, sample_by=args.sample_by)
    train, held_out = split_text(_one_split(args, args.dataset_train_split, read_split), args.held_out, seed, num_proc)
    if args.held_out == 0 and evaluates:
        held_out = _one_split(args, args.dataset_test_split, read_split)
    tokenizer = learn_byte_level_bpe((row["text"] for row in train), args.vocab_size) if read is None else read()
    encoding = _encoding(args, num_proc)
    encoded = encode_both(train, held_out, str(args.dataset_name), tokenizer=tokenizer, **encoding)
    return (*encoded, tokenizer)


def _load_code(args: DataArguments, seed: int, tokenizer: PreTrainedTokenizerBase) -> tuple[Any, Any]:
    from .code.answers import split_answers  # which loads `datasets`; the rest does without

    (rows,) = _splits(args, args.dataset_train_split)
    name = args.dataset_name or "datasets"
    return split_answers(rows, tokenizer, args.held_out, seed, args.apply_chat_template, name)


def _load_rows(args: DataArguments, evaluates: bool) -> tuple[Any, Any]:
    train, *held_out = _splits(args, args.dataset_train_split, *([args.dataset_test_split] if evaluates else []))
    return train, held_out[0] if held_out else None


def _splits(args: DataArguments, *names: str) -> list[Any]:
    """The splits of the mixture, or of the one dataset, as TRL's scripts read them."""
    if not args.datasets:
        from .loading import load_rows

        return [_one_split(args, name, load_rows) for name in names]
    if args.dataset_name:
        logger.warning(f"Both datasets and dataset_name are given: dataset_name={args.dataset_name!r} is not read.")
    mixture = get_dataset(args)
    missing = set(names) - set(mixture)
    if missing:
        raise ValueError(
            f"The mixture of datasets has no split {missing.pop()!r}, only {', '.join(mixture)}: set "
            "test_split_size=0.05, or eval_strategy='no'."
        )
    return [mixture[name] for name in names]


def _one_split(args: DataArguments, name: str, read: Callable[..., Any]) -> Any:
    try:
        return read(str(args.dataset_name), args.dataset_config, name, args.dataset_streaming)
    except ValueError as error:
        if name == args.dataset_train_split:
            raise
        raise ValueError(
            f"{error} To evaluate on a part of another split, write dataset_train_split='train[5%:]' and "
            "dataset_test_split='train[:5%]'; to do without, eval_strategy='no'."
        ) from error


def _read_tokenizer(args: DataArguments, source: str, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    tokenizer = read_tokenizer(source, trust_remote_code=trust_remote_code)
    if args.mask_token is not None:
        if tokenizer.convert_tokens_to_ids(args.mask_token) in (None, tokenizer.unk_token_id):
            raise ValueError(f"mask_token={args.mask_token!r} is not in the vocabulary of {source}.")
        tokenizer.mask_token = args.mask_token
    return tokenizer
