"""Datasets as a trainer is given them, to datasets of tokens."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.utils import logging

from prism_hf._compat import tokenizer_of, unwrapped

from ..arguments import MaskedDiffusionTrainingArguments
from .datasets import is_computed

logger = logging.get_logger(__name__)

RAW_COLUMNS = ("messages", "prompt", "conversations")  # beside the text


@dataclass
class DatasetPreparation:
    """Sets a trainer's tokenizer up, and tokenizes its datasets of raw rows; any other dataset stays as it is.

    Args:
        args (`MaskedDiffusionTrainingArguments`): Say how.
        processing_class (`PreTrainedTokenizerBase`, *optional*): Encodes text. Where it is missing, the first dataset
            of raw rows sets it to what stands beside the model.
        formatting_func (`Callable`, *optional*): Makes a text of a row.
        model (`PreTrainedModel`, *optional*): Says where it is from, and how many tokens it reads.
        is_skipped (`bool`, *optional*, defaults to `False`): Datasets stay as they are.
    """

    args: MaskedDiffusionTrainingArguments
    processing_class: Any
    formatting_func: Callable[[Mapping[str, Any]], str] | None
    model: Any
    is_skipped: bool = False

    def __post_init__(self) -> None:
        """Give the tokenizer the end of a text and the chat template that the arguments name.

        Raises ValueError for a token that is not in the vocabulary, and for a file that is not there.
        """
        args = self.args
        if args.eos_token is not None:
            tokenizer = self.tokenizer()
            if args.eos_token not in tokenizer.get_vocab():
                raise ValueError(
                    f"eos_token={args.eos_token!r} is not in the vocabulary of the tokenizer: add it before."
                )
            tokenizer.eos_token = args.eos_token
        if args.chat_template_path is not None:
            path = Path(args.chat_template_path)
            if not path.is_file():
                raise ValueError(
                    f"chat_template_path={str(path)!r} is no Jinja file. Of another model's tokenizer, template and "
                    "tokens are copied before, with trl.clone_chat_template."
                )
            self.tokenizer().chat_template = path.read_text(encoding="utf-8")

    def tokenizer(self) -> Any:
        """The tokenizer, which is looked for beside the model where none was given."""
        if self.processing_class is None:
            self.processing_class = _tokenizer_beside(self.model, self.args)
        return tokenizer_of(self.processing_class)

    def __call__(self, dataset: Any, name: str, is_training: bool = False) -> Any:
        """The dataset, of tokens; one to be trained on is shuffled, if so asked for. Rows are packed, if so asked for.

        Raises:
            ValueError: for rows that cannot be read, or without a tokenizer.
        """
        if self.is_skipped or dataset is None:
            return dataset
        row, is_packed = self.raw_row(dataset), self.args.packs(is_training)
        try:
            dataset = dataset if row is None else self.tokenized(dataset, row, name, is_packed)
            dataset = self.shuffled(dataset) if is_training and self.args.shuffle_dataset else dataset
            return self.packed(dataset, name) if is_packed else dataset
        except ValueError as error:
            raise ValueError(f"{name} cannot be trained on. {error}") from error

    def each(self, datasets: Any, name: str) -> Any:
        """One dataset, or each of several in a dict, of tokens."""
        if isinstance(datasets, Mapping):
            return {key: self(dataset, f"{name}[{key!r}]") for key, dataset in datasets.items()}
        return self(datasets, name)

    def tokenized(self, dataset: Any, row: Mapping[str, Any], name: str, is_packed: bool) -> Any:
        from .raw_rows import tokenize_dataset

        with self.args.main_process_first(desc=f"tokenizing {name}"):
            return tokenize_dataset(dataset, row, name, self.row_tokenizer(is_packed), self.args.dataset_num_proc)

    def packed(self, dataset: Any, name: str) -> Any:
        from .packed_rows import pack_rows

        with self.args.main_process_first(desc=f"packing {name}"):
            return pack_rows(dataset, name, self.longest_row(), self.args.packing_strategy, self.args.dataset_num_proc)

    def longest_row(self) -> int | None:
        """The tokens of a row that is read, or None where nothing limits them."""
        from prism_hf.generation.denoising.canvas import longest_canvas

        num_positions = None if self.model is None else longest_canvas(unwrapped(self.model))
        limits = [limit for limit in (self.args.max_length, num_positions) if limit is not None]
        return min(limits, default=None)

    def shuffled(self, dataset: Any) -> Any:
        from datasets import Dataset, IterableDataset

        if not isinstance(dataset, Dataset | IterableDataset):
            raise ValueError(
                f"shuffle_dataset=True needs a datasets.Dataset, got {type(dataset).__name__}: leave it out, as "
                "batches of a dataset with a length are drawn at random in any case."
            )
        return dataset.shuffle(seed=self.args.seed)

    def raw_row(self, dataset: Any) -> Mapping[str, Any] | None:
        """The first row of a dataset of raw rows; None for any other.

        What is computed when it is read, with `with_transform`, is another: it would be computed once only.
        """
        from datasets import Dataset, IterableDataset

        if isinstance(dataset, Dataset | IterableDataset):
            if is_computed(dataset) or "input_ids" in (dataset.column_names or ()):
                return None
        elif not isinstance(dataset, list):
            return None
        row = next(iter(dataset), None)
        if not isinstance(row, Mapping) or row.get("input_ids") is not None:
            return None
        names = (self.args.dataset_text_field, *RAW_COLUMNS)
        return row if self.formatting_func is not None or any(row.get(name) is not None for name in names) else None

    def row_tokenizer(self, is_packed: bool) -> Any:
        """The `RowTokenizer` that the arguments ask for, of rows that are packed or are not."""
        from .raw_rows import RowTokenizer

        args, max_length = self.args, self.longest_row()
        if args.completion_only_loss and self.formatting_func is not None:
            raise ValueError(
                "formatting_func makes one text of a row, of which completion_only_loss=True knows no completion: "
                "leave one of them out."
            )
        if max_length is not None and max_length < (args.max_length or max_length):
            logger.warning_once(f"Raw rows are cut after the {max_length} tokens that the model can read.")
        if is_packed and args.packing_strategy != "bfd":
            max_length = None  # what is over goes into other rows
        return RowTokenizer(
            self.tokenizer(),
            args.dataset_text_field,
            self.formatting_func,
            args.completion_only_loss is not False,
            args.assistant_only_loss,
            max_length,
            args.tokenize_prompt_alone,
        )


def _tokenizer_beside(model: Any, args: MaskedDiffusionTrainingArguments) -> Any:
    from transformers import AutoTokenizer

    from prism_hf.data.tokenizers import has_vocabulary

    model_name = None if model is None else unwrapped(model).name_or_path
    remedy = "pass the tokenizer as processing_class."
    if not model_name:
        raise ValueError(f"Rows of text need a tokenizer, and the model does not say where it is from: {remedy}")
    try:
        revision = (args.model_init_kwargs or {}).get("revision", "main")
        tokenizer = AutoTokenizer.from_pretrained(
            model_name, revision=revision, trust_remote_code=args.trust_remote_code
        )
        if not has_vocabulary(tokenizer):
            raise ValueError("Its files are missing.")
    except (OSError, ValueError) as error:
        raise ValueError(f"Rows of text need a tokenizer, and there is none in {model_name}: {remedy}") from error
    return tokenizer
