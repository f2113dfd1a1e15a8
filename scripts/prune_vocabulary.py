"""Keep of a BERT's WordPiece vocabulary what a corpus needs, so that a small model spends less on its LM head.

    python scripts/prune_vocabulary.py minilm prose/train.jsonl minilm_prose --size 8192

Special tokens, the single characters of the corpus and its most frequent tokens stay, with their embeddings. A word
whose token is gone is read as smaller pieces.
"""

import argparse
import json
from collections import Counter
from pathlib import Path

from tokenizers import Tokenizer
from torch import nn
from transformers import AutoModelForMaskedLM, AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from prism_hf.data import load_text


def kept_tokens(tokenizer: PreTrainedTokenizerBase, path: Path, size: int) -> list[str]:
    """The special tokens, then the others, the most frequent first."""
    counts: Counter[str] = Counter()
    for batch in load_text(path, streaming=True).batch(1000):
        for encoding in tokenizer(batch["text"], add_special_tokens=False, verbose=False).encodings:
            counts.update(encoding.tokens)
            counts.update(dict.fromkeys(encoding.tokens, 0))
    characters = {piece for token in counts for piece in pieces(token)} & tokenizer.get_vocab().keys()
    special = tokenizer.all_special_tokens
    rest = sorted(counts.keys() - set(special), key=lambda token: (token not in characters, -counts[token]))
    missing = sorted(characters - counts.keys())
    return [*special, *missing, *rest][:size]


def pieces(token: str) -> list[str]:
    """A token's characters, as they stand at the beginning of a word and within one."""
    characters = token.removeprefix("##")
    return [*characters, *(f"##{character}" for character in characters)]


def pruned_tokenizer(tokenizer: PreTrainedTokenizerBase, tokens: list[str]) -> PreTrainedTokenizerFast:
    ids = {token: number for number, token in enumerate(tokens)}
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    backend["model"]["vocab"] = ids
    backend["padding"] = backend["truncation"] = None
    for added in backend["added_tokens"]:
        added["id"] = ids[added["content"]]
    for name, special in (backend["post_processor"] or {}).get("special_tokens", {}).items():
        special["ids"] = [ids[name]]
    names = ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(backend)),
        model_max_length=tokenizer.model_max_length,
        **{name: getattr(tokenizer, name) for name in names},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a BERT and its tokenizer")
    parser.add_argument("corpus", type=Path, help="a file with a column of text")
    parser.add_argument("output", help="folder for the smaller model")
    parser.add_argument("--size", type=int, default=8192)
    args = parser.parse_args()
    tokenizer, model = AutoTokenizer.from_pretrained(args.model), AutoModelForMaskedLM.from_pretrained(args.model)
    tokens = kept_tokens(tokenizer, args.corpus, args.size)
    smaller = pruned_tokenizer(tokenizer, tokens)
    weights = model.get_input_embeddings().weight[[tokenizer.get_vocab()[token] for token in tokens]]
    model.resize_token_embeddings(len(tokens), mean_resizing=False)
    model.get_input_embeddings().weight = nn.Parameter(weights.detach().clone())
    model.tie_weights()
    model.config.pad_token_id, model.config.mask_token_id = smaller.pad_token_id, smaller.mask_token_id
    model.save_pretrained(args.output)
    smaller.save_pretrained(args.output)
    print(f"{len(tokens)} of {len(tokenizer)} tokens, {model.num_parameters() / 1e6:.1f}M parameters.")


if __name__ == "__main__":
    main()
