"""The tokenization of published corpora, undone: examples by hand."""

import pytest

from prism_hf.data.text.detokenizers import DETOKENIZERS

EXAMPLES = {
    "wikitext": {
        " = = = Early life = = = \n": " === Early life ===\n",
        "the boys ' well @-@ known 1 @,@ 500 and 2 @.@ 5 m": "the boys' well-known 1,500 and 2.5 m",
        'Ants , bees ; " cows " ( and dogs ) : yes ! No ? .': 'Ants, bees; "cows" (and dogs): yes! No?.',
        "John 's N ants \n and N": "John's 1 ants\nand N",
    },
    "ptb": {
        "the banks ' N N shares do n't pay # N or $ N \n a\\/b": "the banks' 1 1 shares don't pay #1 or $ N\na/b",
        "mr. <unk> 's": "mr. ?'s",
    },
    "lm1b": {
        "See http : / / a.com / b , he said .": "See http://a.com/b, he said.",
        'John \'s " big " idea ( ants ) [ sic ] cost $ 5 ; or \u00a3 4 ?': (
            'John\'s "big" idea (ants) [sic] cost $5; or \u00a34?'
        ),
    },
    "lambada": {" \u201cYes,\u201d she said. ": '\n"Yes," she said.'},
    "scientific_papers": {"we use @xcite , $ 5 ( see [ 2 ] ) .": "we use @xcite, $5 (see [2])."},
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples(name):
    assert {text: DETOKENIZERS[name](text) for text in EXAMPLES[name]} == EXAMPLES[name]


def test_all_have_an_example():
    assert set(EXAMPLES) == set(DETOKENIZERS)


@pytest.mark.parametrize("name", EXAMPLES)
def test_plain_prose_stays(name):
    text = 'Ants, bees and cows (see "dogs") are fine; so is 3/4.'
    assert DETOKENIZERS[name](text).strip() == text
