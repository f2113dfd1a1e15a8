"""Write small Python functions as JSONL, with the task of writing others: a toy, for a code model that a laptop trains.

    python scripts/make_functions.py functions

What the folder then holds:

- `rows/train.jsonl` and `rows/test.jsonl`, of a `prompt` and a `completion` in the form that evaluations ask in
  (`prompt_form: signature`). Most are made here: a function takes numbers, a string or words, keeps some, changes each
  and returns something about them, as in "Return the sum of the squares of the even numbers in xs." The others, of
  training alone, are short functions with docstrings out of Python files, by default those of the standard library.
- `problems.jsonl`, functions to write, in MBPP's layout and with its task ids: 500 to report, and 90 of the validation
  split to choose arguments on. They are asked of no model but one that is trained on these rows: a score says how
  strategies compare on it, nothing of programming.
- `tokenizer`, a byte-level BPE that is learned on the rows of training.

Two specifications are one where the functions do the same on all inputs of the tests, however they are written, and
one is on one side of the split: a problem's function is none that was trained on, though each of its parts is. For the
same reason the function of one problem fails the tests of any other. The same seed and folders give the same files.
"""

import argparse
import ast
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from prism_hf.data.byte_level_bpe import learn_byte_level_bpe
from prism_hf.data.code.texts import code_prompt, code_target, signature_of
from prism_hf.data.source_files import python_files, read_sources
from prism_hf.data.splits import split_of

SHARES = {"test": 0.04, "validation": 0.01}  # of the specifications
FIRST_IDS = {"test": 11, "validation": 511}  # those of MBPP's splits
NUM_PROBLEMS = {"test": 500, "validation": 90}
MOST_LINES = 8  # of a function from a Python file


class Filter(NamedTuple):
    said: tuple[str, ...]
    code: str


class Change(NamedTuple):
    said: str
    done: str
    code: str


class Result(NamedTuple):
    name: str
    said: tuple[str, ...]
    code: str
    of_changed: bool = True  # else a change makes no difference that is worth a function


class Kind(NamedTuple):
    """What functions take. A filter of `first` may stand before one of `second`."""

    name: str
    item: str
    parameters: tuple[str, ...]
    source: str
    noun: str
    place: str
    first: tuple[Filter, ...]
    second: tuple[Filter, ...]
    changes: tuple[Change, ...]
    results: tuple[Result, ...]
    inputs: tuple[Any, ...]


class Specification(NamedTuple):
    """What a function does."""

    kind: Kind
    filters: tuple[Filter, ...]
    change: Change | None
    result: Result


SIGNS = (
    Filter(("even {}", "{} that are even"), "x % 2 == 0"),
    Filter(("odd {}", "{} that are odd"), "x % 2 == 1"),
)
BOUNDS = (
    *(Filter((f"{{}} greater than {k}", f"{{}} above {k}"), f"x > {k}") for k in range(1, 10)),
    *(Filter((f"{{}} less than {k}", f"{{}} below {k}"), f"x < {k}") for k in range(1, 10)),
    *(Filter((f"{{}} divisible by {k}", f"{{}} that {k} divides"), f"x % {k} == 0") for k in range(3, 10)),
)
SUMS = (
    Change("the squares of {}", "square each", "x * x"),
    Change("the cubes of {}", "cube each", "x ** 3"),
    Change("the negatives of {}", "negate each", "-x"),
    Change("the absolute values of {}", "take the absolute value of each", "abs(x)"),
    *(Change(f"{k} times each of {{}}", f"multiply each by {k}", f"x * {k}") for k in range(2, 10)),
    *(Change(f"{k} more than each of {{}}", f"add {k} to each", f"x + {k}") for k in range(1, 10)),
    *(Change(f"{k} less than each of {{}}", f"subtract {k} from each", f"x - {k}") for k in range(1, 10)),
)
ENDS = (
    Result("first", ("the first of {}, or None if there is none",), "next(iter({}), None)"),
    Result("last", ("the last of {}, or None if there is none",), "next(reversed({}), None)"),
)
COUNT = Result("count", ("the number of {}", "how many there are of {}"), "len({})", of_changed=False)
OF_NUMBERS = (
    Result("sum", ("the sum of {}", "the total of {}"), "sum({})"),
    Result("largest", ("the largest of {}, or 0 if there is none",), "max({}, default=0)"),
    Result("smallest", ("the smallest of {}, or 0 if there is none",), "min({}, default=0)"),
    Result("list", ("a list of {}",), "{}"),
    Result("sorted", ("a sorted list of {}", "a list of {} in ascending order"), "sorted({})"),
    Result("descending", ("a list of {} in descending order",), "sorted({}, reverse=True)"),
    Result("distinct", ("the number of distinct values among {}",), "len(set({}))"),
    COUNT,
    *ENDS,
)
LETTERS = "aeilnorst"
QUOTED = tuple(f"'{letter}'" for letter in LETTERS)
OF_STRINGS = (
    Change("the upper-case forms of {}", "put each in upper case", "{}.upper()"),
    Change("the lower-case forms of {}", "put each in lower case", "{}.lower()"),
    Change("two copies of each of {}", "double each", "{} * 2"),
    Change("three copies of each of {}", "repeat each three times", "{} * 3"),
)

NUMBERS = Kind(
    name="numbers",
    item="x",
    parameters=("xs", "numbers", "values", "nums"),
    source="{}",
    noun="numbers",
    place="in {}",
    first=(
        *SIGNS,
        Filter(("positive {}", "{} greater than 0"), "x > 0"),
        Filter(("negative {}", "{} less than 0"), "x < 0"),
    ),
    second=BOUNDS,
    changes=SUMS,
    results=OF_NUMBERS,
    inputs=([], [7], [3, -8, 12, 0, 5], [*range(12, -13, -1)], [6, 6, 3, 9, -9, 4], [10, 21, 36, 49, 64, -80, 18, 1]),
)
UP_TO = Kind(
    name="up_to",
    item="x",
    parameters=("n", "limit", "end"),
    source="range(1, {} + 1)",
    noun="numbers",
    place="from 1 to {}",
    first=SIGNS,
    second=BOUNDS,
    changes=SUMS,
    results=OF_NUMBERS,
    inputs=(0, 1, 4, 7, 12, 30),
)
TEXT = Kind(
    name="characters",
    item="c",
    parameters=("text", "s", "string", "line"),
    source="{}",
    noun="characters",
    place="in {}",
    first=(
        Filter(("upper-case {}", "{} that are in upper case"), "c.isupper()"),
        Filter(("lower-case {}", "{} that are in lower case"), "c.islower()"),
    ),
    second=(
        Filter(("{} that are vowels", "{} that are one of aeiou"), "c.lower() in 'aeiou'"),
        Filter(("{} that are no vowels", "{} that are none of aeiou"), "c.lower() not in 'aeiou'"),
        Filter(("{} that are letters",), "c.isalpha()"),
        Filter(("{} that are digits",), "c.isdigit()"),
        Filter(("{} that are no spaces", "{} other than spaces"), "c != ' '"),
        *(Filter((f"{{}} other than {each}", f"{{}} that are not {each}"), f"c != {each}") for each in QUOTED),
        *(Filter((f"{{}} before {each}", f"{{}} less than {each}"), f"c < {each}") for each in QUOTED),
    ),
    changes=tuple(change._replace(code=change.code.format("c")) for change in OF_STRINGS),
    results=(
        Result("joined", ("a string of {}",), "''.join({})"),
        Result("reversed", ("a string of {} in reverse order",), "''.join({}[::-1])"),
        Result("sorted", ("a string of {} in sorted order",), "''.join(sorted({}))"),
        Result("dashed", ("a string of {} with '-' between them",), "'-'.join({})"),
        *(Result(f"first_{k}", (f"a string of the first {k} of {{}}",), f"''.join({{}}[:{k}])") for k in range(2, 6)),
        *(Result(f"last_{k}", (f"a string of the last {k} of {{}}",), f"''.join({{}}[-{k}:])") for k in range(2, 6)),
        Result("distinct", ("the number of distinct values among {}",), "len(set({}))"),
        COUNT,
        *ENDS,
    ),
    inputs=(
        "",
        "a",
        "The Rain in Spain, 1942",
        "abcdefghijklmnopqrstuvwxyz",
        "ZYXWVUTSRQPONMLKJIHGFEDCBA 9876543210",
        "Lorem Ipsum tells: NO stone alters 3 rules.",
    ),
)
WORDS = Kind(
    name="words",
    item="w",
    parameters=("words", "names", "strings", "items"),
    source="{}",
    noun="words",
    place="in {}",
    first=(
        *(Filter((f"{{}} longer than {k}", f"{{}} of more than {k} letters"), f"len(w) > {k}") for k in range(2, 7)),
        *(Filter((f"{{}} shorter than {k}", f"{{}} of less than {k} letters"), f"len(w) < {k}") for k in range(3, 8)),
        *(Filter((f"{{}} of length {k}", f"{{}} of {k} letters"), f"len(w) == {k}") for k in range(3, 7)),
    ),
    second=(
        *(Filter((f"{{}} that start with {each}",), f"w.startswith({each})") for each in QUOTED),
        *(Filter((f"{{}} that end with {each}",), f"w.endswith({each})") for each in QUOTED),
        *(Filter((f"{{}} that contain {each}", f"{{}} with {each}"), f"{each} in w") for each in QUOTED),
        *(Filter((f"{{}} that lack {each}", f"{{}} without {each}"), f"{each} not in w") for each in QUOTED),
    ),
    changes=(
        *(change._replace(code=change.code.format("w")) for change in OF_STRINGS),
        Change("the reversals of {}", "reverse each", "w[::-1]"),
        Change("the capitalized forms of {}", "capitalize each", "w.capitalize()"),
        Change("the first letters of {}", "take the first letter of each", "w[:1]"),
        Change("the last letters of {}", "take the last letter of each", "w[-1:]"),
    ),
    results=(
        Result("list", ("a list of {}",), "{}"),
        Result("sorted", ("a sorted list of {}", "a list of {} in alphabetical order"), "sorted({})"),
        Result("spaced", ("a string of {} with spaces between them",), "' '.join({})"),
        Result("dashed", ("a string of {} with '-' between them",), "'-'.join({})"),
        Result("joined", ("a string of {}", "{} joined to one string"), "''.join({})"),
        Result("longest", ("the longest of {}, or '' if there is none",), "max({}, key=len, default='')"),
        Result("shortest", ("the shortest of {}, or '' if there is none",), "min({}, key=len, default='')"),
        COUNT,
        *ENDS,
    ),
    inputs=(
        [],
        ["orange"],
        ["stone", "ant", "Tea", "lantern", "is", "online"],
        ["a", "to", "sea", "rain", "lost", "trial", "stream", "install", "entrance", "relations"],
        ["on", "era", "tint", "oasis", "island", "element", "loose", "noise", "root", "salt", "tell"],
        [
            "Alas",
            "the",
            "inner",
            "rotor",
            "sets",
            "Noel",
            "arena",
            "elation",
            "i",
            "nil",
            "lei",
            "outlier",
            "sailor",
            "tenant",
        ],
    ),
)
KINDS = (NUMBERS, UP_TO, TEXT, WORDS)
WEIGHTS = (4, 2, 2, 4)  # how often each is drawn, relative to the others


def draw(rng: random.Random) -> Specification:
    (kind,) = rng.choices(KINDS, WEIGHTS)
    chosen = rng.choice(((), (kind.first,), (kind.second,), (kind.first, kind.second)))
    result = rng.choice(kind.results)
    change = rng.choice(kind.changes) if result.of_changed and rng.random() < 0.8 else None
    return Specification(kind, tuple(rng.choice(filters) for filters in chosen), change, result)


def instruction(specification: Specification, parameter: str, rng: random.Random) -> str:
    """One of the ways to ask for the function."""
    kind, filters, change, result = specification
    items = kind.noun
    for each in filters:
        items = rng.choice(each.said).format(items)
    place = kind.place.format(parameter)
    said = rng.choice(result.said)
    if rng.random() < 0.3:
        steps = f"Take the {items} {place}"
        return f"{steps}{f', {change.done},' if change else ''} and return {said.format('them')}."
    named = f"the {items}" if rng.random() < 0.5 else f"all {items}"
    whole = said.format(change.said.format(f"{named} {place}") if change else f"{named} {place}")
    return f"{rng.choice(('Return', 'Return', 'Compute', 'Find', 'Give'))} {whole}."


def code_of(specification: Specification, parameter: str, style: str) -> str:
    """The function: as one expression, in two steps, or with a loop."""
    kind, filters, change, result = specification
    source = kind.source.format(parameter)
    condition = " and ".join(each.code for each in filters)
    new = change.code if change else kind.item
    items = f"[{new} for {kind.item} in {source}{f' if {condition}' if filters else ''}]"
    head = f"def {result.name}_{kind.name}({parameter}):"
    if style == "expression":
        return f"{head}\n    return {result.code.format(items)}"
    if style == "steps":
        return f"{head}\n    found = {items}\n    return {result.code.format('found')}"
    test = f"        if {condition}:\n    " if filters else ""
    loop = f"    for {kind.item} in {source}:\n{test}        found.append({new})"
    return f"{head}\n    found = []\n{loop}\n    return {result.code.format('found')}"


STYLES = ("expression", "expression", "steps", "loop")


def outputs_of(specification: Specification) -> list[Any]:
    """What the function returns for the inputs of the tests."""
    names: dict[str, Any] = {}
    exec(code_of(specification, "given", "expression"), names)  # ours, no model's
    function = names[f"{specification.result.name}_{specification.kind.name}"]
    return [function(given) for given in specification.kind.inputs]


def specifications(number: int, rng: random.Random) -> Iterator[tuple[str, Specification, list[Any]]]:
    """Specifications that differ in what they do, each with a key and its outputs; fewer where few are left.

    What returns one or two values only is left out, as another function would often pass its tests.
    """
    seen: set[str] = set()
    for _ in range(10 * number):
        specification = draw(rng)
        outputs = outputs_of(specification)
        key = f"{specification.kind.inputs}: {outputs}"
        if key not in seen and len(set(map(repr, outputs))) > 2:
            seen.add(key)
            yield key, specification, outputs
        if len(seen) == number:
            return


def row(instruction: str, code: str, name: str, source: str) -> dict[str, str]:
    prompt = code_prompt(instruction, name, signature_of(code, name))
    return {"prompt": prompt, "completion": code_target(code), "source": source}


def asked(specification: Specification, rng: random.Random) -> tuple[str, str, str]:
    """An instruction, code that follows it, and the function's name."""
    parameter = rng.choice(specification.kind.parameters)
    code = code_of(specification, parameter, rng.choice(STYLES))
    return instruction(specification, parameter, rng), code, f"{specification.result.name}_{specification.kind.name}"


def problem(
    task_id: int, specification: Specification, outputs: Sequence[Any], rng: random.Random
) -> dict[str, int | str | list[str]]:
    """A problem in MBPP's layout."""
    text, code, name = asked(specification, rng)
    tests = [
        f"assert {name}({given!r}) == {output!r}"
        for given, output in zip(specification.kind.inputs, outputs, strict=True)
    ]
    return {"task_id": task_id, "text": text, "code": code, "test_setup_code": "", "test_list": tests}


def functions_of(source: str) -> Iterator[tuple[str, str, str]]:
    """The short functions and methods with a docstring in a file's text: its first paragraph, the code without it, and
    the name."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError):
        return
    for node in nodes:
        docstring = ast.get_docstring(node) if isinstance(node, ast.FunctionDef) else None
        if not docstring or len(node.body) < 2:
            continue
        node.body, node.decorator_list = node.body[1:], []
        code, text = ast.unparse(node), " ".join(docstring.split("\n\n")[0].split())
        if code.count("\n") < MOST_LINES:
            yield text, code, node.name


def collected(folders: Sequence[Path | None]) -> Iterator[dict[str, str]]:
    """Rows from the Python files of folders, None for the standard library's; each code once."""
    seen: set[str] = set()
    for folder in folders:
        files, _ = python_files(folder, held_out=0)
        for source in read_sources(files):
            for text, code, name in functions_of(source):
                if code not in seen and signature_of(code, name):
                    seen.add(code)
                    yield row(text, code, name, "files")


def save_training_rows(rows: Sequence[dict[str, str]], folder: Path, vocab_size: int, max_length: int) -> list[dict]:
    """Learn a tokenizer, and save it and the rows of at most so many tokens, with that of their end; return these."""
    texts = [each["prompt"] + each["completion"] for each in rows]
    tokenizer = learn_byte_level_bpe(texts, vocab_size)
    tokenizer.save_pretrained(folder / "tokenizer")
    lengths = map(len, tokenizer(texts).input_ids)
    kept = [each for each, length in zip(rows, lengths, strict=True) if length < max_length]
    write(folder / "rows" / "train.jsonl", kept)
    return kept


def write(path: Path, rows: Sequence[dict]) -> None:
    path.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")


def made(args: argparse.Namespace, rng: random.Random) -> tuple[list[dict], list[dict], dict[str, list[dict]]]:
    """Rows to train on, rows of the problems to report, and the problems of either split."""
    train: list[dict] = []
    test: list[dict] = []
    problems: dict[str, list[dict]] = {split: [] for split in SHARES}
    for key, specification, outputs in specifications(args.num_specifications, rng):
        split = split_of(key, SHARES, seed=0)
        if split == "train":
            train += [row(*asked(specification, rng), "made") for _ in range(args.num_phrasings)]
        elif len(problems[split]) < NUM_PROBLEMS[split]:
            task_id = FIRST_IDS[split] + len(problems[split])
            problems[split].append(problem(task_id, specification, outputs, rng))
            if split == "test":
                test.append(row(*asked(specification, rng), "made"))
    return train, test, problems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder for the files")
    parser.add_argument("--folders", type=Path, nargs="*", default=[None], help="of Python files; may be none")
    parser.add_argument("--num_specifications", type=int, default=20_000)
    parser.add_argument("--num_phrasings", type=int, default=4, help="rows of training for each specification")
    parser.add_argument("--max_length", type=int, default=144, help="tokens of a row of training; longer are left out")
    parser.add_argument("--vocab_size", type=int, default=2048)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    train, test, problems = made(args, rng)
    train += collected(args.folders)
    rng.shuffle(train)
    (args.output / "rows").mkdir(parents=True, exist_ok=True)
    train = save_training_rows(train, args.output, args.vocab_size, args.max_length)
    write(args.output / "rows" / "test.jsonl", test)
    write(args.output / "problems.jsonl", [each for kept in problems.values() for each in kept])
    of_files = sum(each["source"] == "files" for each in train)
    print(f"rows: {len(train)} to train on, {of_files} of them from Python files, and {len(test)} held out")
    print(f"problems: {len(problems['test'])} to report, {len(problems['validation'])} to choose arguments on")


if __name__ == "__main__":
    main()
