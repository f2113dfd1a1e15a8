"""Documents of random words."""

import random

import datasets
import pytest


@pytest.fixture(scope="session")
def texts():
    """Empty ones, short ones, and some that are longer than a block."""
    chance = random.Random(0)
    words = ["ant", "bee", "cow", "dog", "\u00e9l\u00e9phant", "fox\n", "<|mdm_mask|>"]
    return [" ".join(chance.choices(words, k=chance.choice([0, 1, 5, 20, 90]))) for _ in range(60)]


@pytest.fixture(scope="session")
def documents(texts):
    """The texts as a dataset."""
    return datasets.Dataset.from_dict({"text": texts})
