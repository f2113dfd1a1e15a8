"""What undoes the tokenization that published corpora come in: by name, functions of one text.

The likelihood of a corpus with spaces before its commas says how well a model knows such spaces. MDLM, ReMDM and PRISM
undo them in the sets of their zero-shot tables, and not in OpenWebText. Rules are of strings, in the order in which
they stand here.
"""

import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeAlias

Detokenizer: TypeAlias = Callable[[str], str]
Rule: TypeAlias = tuple[str, str]  # a pattern, and what takes its place

# Marks whose content is to touch them.
HUGGED = (
    (r"\(\s*([^()]*?)\s*\)", r"(\1)"),
    (r"\[\s*([^][]*?)\s*\]", r"[\1]"),
    (r"\{\s*([^{}]*?)\s*\}", r"{\1}"),
    (r'"\s*([^"]*?)\s*"', r'"\1"'),
)
NO_SPACE_BEFORE = (r" ([:;.!?,])(?=\s|$)", r"\1")

WIKITEXT = (
    (r"s '", "s'"),
    (r" @([-,.])@ ", r"\1"),
    NO_SPACE_BEFORE,
    *HUGGED,
    (r"'\s*([^']*?)\s*'", r"'\1'"),
    (r"= = = =", "===="),
    (r"= = =", "==="),
    (r"= =", "=="),
    (r" ?\n ?", "\n"),
    (r"(?<= )N(?= )", "1"),
    (r" 's", "'s"),
)
PTB = (
    (r" 's", "'s"),
    (r"s ' ", "s' "),
    (r" n't", "n't"),
    (r" \n ", "\n"),
    (r"\\/", "/"),
    (r"(?<= )N(?= )", "1"),
    (r"([$#]) 1", r"\g<1>1"),
    (r"<unk>", "?"),
)
LM1B = (
    (r"(https?) : / / ", r"\1://"),
    (r" '(?=\w)", "'"),
    NO_SPACE_BEFORE,
    (r" / ", "/"),
    (r'" ([^"]+) "', r'"\1"'),
    (r"' ([^']+) '", r"'\1'"),
    (r"\( ([^()]+) \)", r"(\1)"),
    (r"\[ ([^][]+) \]", r"[\1]"),
    ("([$\u00a3]) ", r"\1"),
)


def substituted(text: str, rules: Iterable[Rule]) -> str:
    """The text after each rule in turn."""
    for pattern, replacement in rules:
        text = re.sub(pattern, replacement, text)
    return text


def lambada(text: str) -> str:
    """With straight double quotes and nothing around it, on a line of its own."""
    return "\n" + text.replace("\u201c", '"').replace("\u201d", '"').strip()


DETOKENIZERS: dict[str, Detokenizer] = {
    "wikitext": partial(substituted, rules=WIKITEXT),
    "ptb": partial(substituted, rules=PTB),
    "lm1b": partial(substituted, rules=LM1B),
    "lambada": lambada,
    "scientific_papers": partial(substituted, rules=WIKITEXT + LM1B),
}
