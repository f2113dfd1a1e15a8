"""Which part of a corpus is held out."""

import hashlib
from collections.abc import Mapping


def is_held_out(key: str, share: float, seed: int) -> bool:
    """Whether what a key names belongs to the held-out share of its corpus.

    Depends on key, share and seed only, not on order or size of the corpus: a stream splits as a table does, equal keys
    stay together, and a corpus that grows moves nothing from one side to the other.
    """
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def is_trained_on(key: str, share: float, seed: int) -> bool:
    """The opposite of `is_held_out`."""
    return not is_held_out(key, share, seed)


def split_of(key: str, shares: Mapping[str, float], seed: int) -> str:
    """The split that a key belongs to: the first of those held out, by name and share, that has it, else `"train"`."""
    return next((split for split, share in shares.items() if is_held_out(f"{split}/{key}", share, seed)), "train")
