"""What a recipe trains on, by name: Sudoku, Python source files, or instructions with their code."""

from dataclasses import dataclass, field
from typing import TypeAlias

from torch.utils.data import Dataset, IterableDataset
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from prism_hf.fields import Count, Positive, Share, check_fields

from .source_files import SourceFiles, python_files, train_byte_level_bpe
from .sudoku.datasets import NUM_PUZZLES, SolvedGrids, SudokuGrids
from .sudoku.grids import Layout
from .sudoku.puzzles import Blanks
from .sudoku.tokenizer import SudokuTokenizer

Loaded: TypeAlias = tuple[Dataset | IterableDataset, Dataset | IterableDataset | None, PreTrainedTokenizerBase]
DATASETS = ("sudoku", "source_files", "code")


@dataclass
class DataArguments:
    """Which data, as fields of a recipe.

    Example:
        ```python
        data_args = DataArguments(dataset="source_files", dataset_path="src", length=256)
        ```
    """

    dataset: str = field(
        default="sudoku",
        metadata={
            "help": "`sudoku`: random grids, or those of dataset_path. `source_files`: Python files of dataset_path or "
            "the standard library's. `code`: instructions and code of dataset_path.",
            "choices": list(DATASETS),
        },
    )
    dataset_path: str | None = field(
        default=None,
        metadata={"help": "CSV of solved grids; folder of .py files; JSONL, Parquet, folder or Hub name for `code`."},
    )
    dataset_name: str | None = field(default=None, metadata={"help": "Configuration of a Hub dataset."})
    streaming: bool = field(default=False, metadata={"help": "Read `code` as a stream."})
    held_out: Share = field(default=0.05, metadata={"help": "Share of files or instructions to evaluate on."})
    tokenizer_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Tokenizer of text; the model's, or for `source_files` a new one, if not given."},
    )
    mask_token: str | None = field(
        default=None, metadata={"help": "The mask token, for a tokenizer that does not name its own."}
    )
    length: Positive = field(default=1024, metadata={"help": "Tokens of a canvas of text."})
    vocab_size: Positive = field(default=4096, metadata={"help": "Of a new tokenizer."})
    max_target_length: Positive = field(default=512, metadata={"help": "`code`: tokens learned after the prompt."})
    apply_chat_template: bool = field(default=False, metadata={"help": "`code`: as turns of a chat."})
    layout: Layout = field(default=89, metadata={"help": "`sudoku`: 89 tokens with ends of rows, or the 81 cells."})
    num_train_samples: Positive = field(
        default=48_000, metadata={"help": "`sudoku`: random grids, without dataset_path."}
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
        if self.eval_blanks is None:
            self.eval_blanks = 51 if self.blanks is None and self.num_eval_puzzles else self.blanks
        check_fields(self)


def load_training_data(args: DataArguments, seed: int, model_name_or_path: str | None = None) -> Loaded:
    """Training data, held-out data and their tokenizer.

    Args:
        args (`DataArguments`): Which data.
        seed (`int`): Of random grids and of the split.
        model_name_or_path (`str`, *optional*): Whose tokenizer reads text, where `args` names none.

    Raises:
        ValueError: if the data cannot be had as asked for.

    Example:
        ```python
        train, held_out, tokenizer = load_training_data(DataArguments(dataset="source_files", length=128), seed=0)
        ```
    """
    if args.dataset == "sudoku":
        return _load_sudoku(args, seed)
    if args.num_eval_puzzles:
        raise ValueError(f"num_eval_puzzles={args.num_eval_puzzles} is for dataset='sudoku': leave it out.")
    source = args.tokenizer_name_or_path or model_name_or_path
    return (_load_source_files if args.dataset == "source_files" else _load_code)(args, seed, source)


def _load_sudoku(args: DataArguments, seed: int) -> Loaded:
    train: Dataset = (
        SudokuGrids(args.num_train_samples, seed + 1, args.layout, args.blanks)
        if args.dataset_path is None
        else SolvedGrids(args.dataset_path)
    )
    held_out, number = None, args.num_eval_samples
    if number:
        held_out = SudokuGrids(number, seed, args.layout, args.eval_blanks, num_puzzles=min(number, NUM_PUZZLES))
    return train, held_out, SudokuTokenizer()


def _load_source_files(args: DataArguments, seed: int, source: str | None) -> Loaded:
    train_files, eval_files = python_files(args.dataset_path, args.held_out, seed)
    tokenizer = train_byte_level_bpe(train_files, args.vocab_size) if source is None else _read_tokenizer(args, source)
    held_out = SourceFiles(eval_files, tokenizer, args.length) if eval_files else None
    return SourceFiles(train_files, tokenizer, args.length), held_out, tokenizer


def _load_code(args: DataArguments, seed: int, source: str | None) -> Loaded:
    if args.dataset_path is None:
        raise ValueError("dataset='code' needs dataset_path: a JSONL or Parquet file, a folder, or a name on the Hub.")
    if source is None:
        raise ValueError("dataset='code' needs tokenizer_name_or_path, or a model that has a tokenizer.")
    from .code.canvases import load_code_datasets  # which loads `datasets`; the rest does without

    tokenizer = _read_tokenizer(args, source)
    train, held_out = load_code_datasets(
        args.dataset_path,
        tokenizer,
        name=args.dataset_name,
        streaming=args.streaming,
        held_out=args.held_out,
        seed=seed,
        canvas_length=args.length,
        max_target_length=args.max_target_length,
        apply_chat_template=args.apply_chat_template,
    )
    return train, held_out, tokenizer


def _read_tokenizer(args: DataArguments, source: str) -> PreTrainedTokenizerBase:
    tokenizer = AutoTokenizer.from_pretrained(source)
    if args.mask_token is not None:
        if tokenizer.convert_tokens_to_ids(args.mask_token) in (None, tokenizer.unk_token_id):
            raise ValueError(f"mask_token={args.mask_token!r} is not in the vocabulary of {source}.")
        tokenizer.mask_token = args.mask_token
    return tokenizer
