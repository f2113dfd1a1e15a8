"""Problems in the layouts of MBPP and HumanEval, answered by hand."""

import gzip
import json
from dataclasses import replace

import pytest

from prism_hf.data.code.texts import signature_of, without_doctests
from prism_hf.evaluation import isolation_problem, read_problems, run_answers
from prism_hf.evaluation.tasks.code.arguments import ProblemArguments
from prism_hf.evaluation.tasks.code.problems import MBPP_SPLITS, of_split

MBPP = [
    {
        "text": "Write a function to add two numbers.",
        "task_id": 11,
        "test_setup_code": "",
        "code": "def add(a, b):\r\n  return a + b",
        "test_list": ["assert add(1, 2) == 3", "assert add(-1, 1) == 0"],
        "challenge_test_list": [],
    },
    {
        "text": "Write a function to count the pairs that are in order.",
        "task_id": 12,
        "test_setup_code": "",
        "code": "class Pair(object):\n\tdef __init__(self, a, b):\n\t\tself.a = a\n\t\tself.b = b\n"
        "def ordered(pairs):\n\treturn sum(pair.a < pair.b for pair in pairs)",
        "test_list": ["assert ordered([Pair(1, 2), Pair(3, 2)]) == 1"],
        "challenge_test_list": [],
    },
    {
        "text": "Write a function to read the root of a tree.",
        "task_id": 511,
        "challenge_test_list": [],
        "test_setup_code": "root = Node(4)\nroot.data += 1",
        "test_list": ["assert read_root(root) == 5"],
        "code": "def read_root(root):\n  return root.data\nclass Node:\n  def __init__(self, data): self.data = data",
    },
]
HUMANEVAL = [
    {
        "task_id": "HumanEval/0",
        "entry_point": "largest",
        "prompt": 'from typing import List\n\n\ndef largest(numbers: List[int]) -> int:\n    """ The largest.\n'
        '    >>> largest([1, 3, 2])\n    3\n    """\n',
        "canonical_solution": "    best = numbers[0]\n    for number in numbers:\n        best = max(best, number)\n"
        "    return best\n",
        "test": "METADATA = {}\n\n\ndef check(candidate):\n    assert candidate([1, 3, 2]) == 3\n"
        "    assert candidate([-1]) == -1\n",
    },
    {
        "task_id": "HumanEval/1",
        "entry_point": "decode",
        "prompt": 'def encode(text: str):\n    """ Text backwards. """\n    return text[::-1]\n\n\n'
        'def decode(text: str):\n    """ The inverse of encode. """\n',
        "canonical_solution": "    return encode(text)\n",
        "test": "def check(candidate):\n    assert candidate(encode('ab c')) == 'ab c'\n",
    },
]


def write(path, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


@pytest.fixture
def isolation():
    return "namespaces" if isolation_problem() is None else "limits"


def test_references_pass_and_others_fail(tmp_path, isolation):
    mbpp = read_problems(write(tmp_path / "mbpp.jsonl", MBPP))
    humaneval = read_problems(write(tmp_path / "HumanEval.jsonl.gz", HUMANEVAL))
    assert [problem.entry_point for problem in mbpp + humaneval] == ["add", "ordered", "read_root", "largest", "decode"]
    references = [problem.reference for problem in mbpp + humaneval]
    run = {"isolation": isolation, "progress": False}
    assert all(result.passed for result in run_answers(mbpp + humaneval, references, **run))
    wrong = [
        "def add(a, b): return 3",
        "def ordered(pairs): return 0",
        "",
        "    return numbers[1]\n",
        "def decode(text):\n    return text\n",
    ]
    results = run_answers(mbpp + humaneval, wrong, **run)
    assert [result.reason for result in results] == ["failed"] * 5
    # The whole function, too, answers a HumanEval problem; Pair need not be defined for one of MBPP.
    others = [
        "def add(a, b): return sum((a, b))",
        "def ordered(pairs):\n    return len([0 for pair in pairs if pair.a < pair.b])",
        "def largest(numbers: List[int]) -> int:\n    return max(numbers)",
        "def decode(text):\n    return encode(text)",
    ]
    assert all(result.passed for result in run_answers(mbpp[:2] + humaneval, others, **run))


ANSWER = "Answer with Python code only, between <py> and </py>. The code must define one top-level function"


def test_prompts_in_the_published_forms(tmp_path):
    mbpp, largest, decode = read_problems(write(tmp_path / "a.jsonl", [MBPP[0], *HUMANEVAL]))
    text = MBPP[0]["text"]
    assert mbpp.prompt == mbpp.prompt_in() == f"{text}\n\n{ANSWER} with the name `add`."
    assert mbpp.prompt_in("signature") == f"{text}\n\n{ANSWER} that begins with `def add(a, b):`."
    tests = "\n".join(MBPP[0]["test_list"])
    assert (
        mbpp.prompt_in(examples=True) == f"{text}\n\nThese tests are to pass:\n{tests}\n\n{ANSWER} with the name `add`."
    )
    assert largest.prompt == f"The largest.\n\n{ANSWER} with the name `largest`."
    assert largest.prompt_in("signature", examples=True) == (
        f"The largest.\n>>> largest([1, 3, 2])\n3\n\n{ANSWER} that begins with "
        "`def largest(numbers: List[int]) -> int:`."
    )
    assert decode.prompt_in("signature") == f"Text backwards.\n\n{ANSWER} that begins with `def decode(text: str):`."


@pytest.mark.parametrize(
    "code, expected",
    [
        ("def f(a): return {1: a}", "def f(a):"),
        ("x: int = 1\nasync def f(a={1: 2}, b=lambda c: c):  # a: b\n  pass", "async def f(a={1: 2}, b=lambda c: c):"),
        ("def f(\r\n  a: int,\r\n) -> dict[int, int]:\r\n  pass", "def f(\n  a: int,\n) -> dict[int, int]:"),
        ("def f(a", None),
        ("def g(a): pass", None),
        ("class C:\n  def f(self): pass", None),
    ],
)
def test_a_signature_is_as_it_was_written(code, expected):
    assert signature_of(code, "f") == expected


@pytest.mark.parametrize(
    "text, left",
    [
        ("A.\n>>> f(1)\n2\n\nB.\n    >>> f(2)\n    3", "A.\nB."),
        (">>> f(1)\n2", ">>> f(1)\n2"),
        ("A.\n>>> f(1)\n2\n>>> f(2)\n3\n", "A."),
        ("A >>> b.", "A >>> b."),
    ],
)
def test_doctests_go_up_to_a_blank_line(text, left):
    assert without_doctests(text) == left


def test_a_prompt_without_docstring_is_asked_whole(tmp_path):
    row = HUMANEVAL[0] | {"prompt": "def largest(numbers):\n"}
    (problem,) = read_problems(write(tmp_path / "a.jsonl", [row]))
    assert problem.prompt.startswith("def largest(numbers):\n\nAnswer")


def test_splits_are_of_task_ids(tmp_path):
    rows = [MBPP[0] | {"task_id": n} for n in (1, 10, 11, 510, 511, 600, 601, 974)]
    problems = read_problems(write(tmp_path / "a.jsonl", rows))
    ids = {split: [each.task_id for each in of_split(problems, split)] for split in MBPP_SPLITS}
    assert ids == {"prompt": [1, 10], "test": [11, 510], "validation": [511, 600], "train": [601, 974]}
    assert of_split(problems, "all") == problems
    humaneval = read_problems(write(tmp_path / "b.jsonl", HUMANEVAL))
    assert of_split(humaneval, "test") == humaneval
    with pytest.raises(ValueError, match="None of 1 problems is of MBPP's test split, task ids 11 to 510"):
        of_split(problems[:1], "test")


SANITIZED = {
    "source_file": "x",
    "task_id": 11,
    "prompt": MBPP[0]["text"],
    "code": MBPP[0]["code"],
    "test_imports": ["import math"],
    "test_list": MBPP[0]["test_list"],
}


def test_a_dataset_with_splits_and_configurations_is_read_whole(tmp_path):
    """As google-research-datasets/mbpp has them on the Hub."""
    folder = tmp_path / "mbpp"
    for name, splits in {"full": {"train": [MBPP[2]], "test": MBPP[:2]}, "sanitized": {"test": [SANITIZED]}}.items():
        (folder / name).mkdir(parents=True)
        for split, rows in splits.items():
            write(folder / name / f"{split}.jsonl", rows)
    configs = [{"config_name": name, "data_files": f"{name}/*.jsonl"} for name in ("full", "sanitized")]
    configs[0]["data_files"] = [{"split": split, "path": f"full/{split}.jsonl"} for split in ("train", "test")]
    (folder / "README.md").write_text(f"---\nconfigs: {json.dumps(configs)}\n---\n")
    args = ProblemArguments(problems_file=str(folder), problems_config="full", split="all")
    assert sorted(each.task_id for each in args.problems()) == [11, 12, 511]
    assert set(args.problems()) == set(read_problems(write(tmp_path / "mbpp.jsonl", MBPP)))
    assert [row["task_id"] for row in replace(args, split=None).prompts(num_samples=2)] == [11, 11, 12, 12]
    (sanitized,) = replace(args, problems_config="sanitized").problems()
    assert sanitized.tests.startswith("import math")
    with pytest.raises(ValueError, match="is a file, which has no configuration 'full'"):
        read_problems(tmp_path / "mbpp.jsonl", "full")
    with pytest.raises(ValueError, match="Set task, mbpp or humaneval, or problems_file"):
        ProblemArguments().problems()


def as_chat(text):
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": text}]}]


def test_other_files_of_the_same_problems(tmp_path):
    (published,) = read_problems(write(tmp_path / "mbpp.jsonl", MBPP[:1]))
    path = tmp_path / "problems.json"
    for rows in ([SANITIZED], MBPP[:1]):
        for text in (json.dumps(rows), json.dumps(rows, indent=2), json.dumps(rows[0])):
            for mark in ("", "\ufeff"):
                path.write_text(mark + text, encoding="utf-8")
                (problem,) = read_problems(path)
                assert (problem.prompt, problem.reference) == (published.prompt, published.reference)
    path.write_text(json.dumps([SANITIZED]))
    assert read_problems(path)[0].tests.startswith("import math\nassert add(1, 2) == 3\n")
    path.write_text(json.dumps([SANITIZED, SANITIZED]))
    with pytest.raises(ValueError, match="entry 2 has the task_id 11 of entry 1: keep one"):
        read_problems(path)


def test_a_chat_may_ask(tmp_path, isolation):
    (mbpp,) = read_problems(write(tmp_path / "a.jsonl", [SANITIZED | {"prompt": as_chat("Add two numbers.")}]))
    assert mbpp.prompt.startswith("Be brief.\n\nAdd two numbers.\n\nAnswer with Python code only")
    asked = as_chat(f"Complete:\n```python\n{HUMANEVAL[0]['prompt']}```")
    (humaneval,) = read_problems(write(tmp_path / "b.jsonl", [HUMANEVAL[0] | {"prompt": asked}]))
    assert humaneval.given.startswith("from typing import List") and "Complete:" not in humaneval.given
    answers = [humaneval.reference, "def largest(numbers: List[int]):\n    return max(numbers)"]
    results = run_answers([humaneval] * 2, answers, isolation=isolation, progress=False)
    assert [result.passed for result in results] == [True, True]
    for wrong in ([], [{"role": "user"}], ["Add"], [{"role": "user", "content": 3}]):
        with pytest.raises(ValueError, match=r"a.jsonl, line 1: 'prompt'|'text'.*list of messages|names no|must be"):
            read_problems(write(tmp_path / "a.jsonl", [HUMANEVAL[0] | {"prompt": wrong}]))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"code": None}, r"a\.jsonl, line 2: 'code' must be str, got None"),
        ({"test_list": "assert True"}, r"line 2: 'test_list' must be list, got 'assert True'"),
        ({"test_list": []}, "line 2: 'test_list' must be a list of at least one line"),
        ({"code": "x = 1"}, "line 2: 'code' defines no top-level function"),
        ({"task_id": 11}, "line 2 has the task_id 11 of line 1: keep one"),
        ({"task_id": "12"}, "line 2: 'task_id' must be int"),
    ],
)
def test_a_bad_row_is_told_with_its_line(change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_problems(write(tmp_path / "a.jsonl", [MBPP[0], MBPP[1] | change]))


def test_a_bad_file_is_told(tmp_path):
    path = tmp_path / "problems.jsonl"
    for content, message in (
        (b"", "problems.jsonl has no problems"),
        (b"\n{", "line 2 is no JSON"),
        (b"[1]", r"line 1 must be a JSON object, got '\[1\]'"),
        (b'{"text": "x"}', "line 1 has no field 'task_id' of the layout of MBPP, only"),
        (b'{"prompt": "x", "test": "x"}', "line 1 has no field 'task_id' of the layout of HumanEval"),
        (b"\xff\xfe", "problems.jsonl is no UTF-8 text.*Save it as UTF-8"),
        (gzip.compress(b"[]")[:-9], "problems.jsonl is gzipped and damaged"),
        (b"[" * 100_000, "line 1 is no JSON"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read_problems(path)
    with pytest.raises(ValueError, match=r"There is no file .* Did you mean .*problems.jsonl"):
        read_problems(tmp_path / "problem.jsonl")
    for row, changes, message in (
        (HUMANEVAL[0], {"entry_point": "other"}, "does not define the 'entry_point' 'other'"),
        (HUMANEVAL[0], {"entry_point": ""}, "does not define the 'entry_point' ''"),
        (HUMANEVAL[0], {"test": "assert True"}, "'test' must define the function check"),
        (MBPP[0], {"test_list": [""]}, "'test_list' must be a list of at least one line of code"),
        (MBPP[0], {"task_id": True}, "'task_id' must be int, got True"),
    ):
        with pytest.raises(ValueError, match=message):
            read_problems(write(path, [row | changes]))


def test_a_file_may_be_gzipped_whatever_its_name(tmp_path):
    path = write(tmp_path / "problems.jsonl", MBPP)
    problems = read_problems(path)
    (tmp_path / "packed.json").write_bytes(gzip.compress(path.read_bytes()))
    (tmp_path / "plain.gz").write_bytes(path.read_bytes())
    assert problems == read_problems(tmp_path / "packed.json") == read_problems(tmp_path / "plain.gz")
