"""A tokenizer learned on texts, with LLaDA's special tokens."""

from collections.abc import Iterable
from typing import Annotated

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from prism_hf.fields import Allowed, check_value

# LLaDA's.
SPECIAL_TOKENS = (
    "<|startoftext|>",
    "<|endoftext|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|mdm_mask|>",
)
VocabularySize = Annotated[
    int, Allowed(min=256 + len(SPECIAL_TOKENS), remedy="It counts the bytes and the special tokens.")
]
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|start_header_id|>' ~ message.role ~ '<|end_header_id|>\n\n' ~ message.content | trim ~ '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)


def learn_byte_level_bpe(texts: Iterable[str], vocab_size: VocabularySize = 4096) -> PreTrainedTokenizerFast:
    """A byte-level BPE learned on texts, with LLaDA's special tokens (EOS is the padding too) and turns of chat.

    Any text comes back as it was.

    Args:
        texts (`Iterable[str]`): Read once, none is kept.
        vocab_size (`int`, *optional*, defaults to 4096): Less, where the texts give too few merges.

    Raises:
        ValueError: if the vocabulary has no room for the 256 bytes and the special tokens.

    Example:
        ```python
        tokenizer = learn_byte_level_bpe(row["text"] for row in load_text("prose.jsonl"))
        ```
    """
    check_value("vocab_size", vocab_size, VocabularySize, "learn_byte_level_bpe")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        chat_template=CHAT_TEMPLATE,
        model_input_names=["input_ids", "attention_mask"],
        bos_token="<|startoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        mask_token="<|mdm_mask|>",
        extra_special_tokens=["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    )
