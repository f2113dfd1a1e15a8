"""Forms in which a right answer comes: the code that is found must add."""

import pytest

from prism_hf.evaluation import extract_code, find_code
from prism_hf.evaluation.tasks.code.answers import FORMS
from prism_hf.evaluation.tasks.code.problems import CodeProblem, program_of

ADD = "def add(a, b):\n    return a + b"
PLUS = "plus = lambda a, b: a + b"
WRONG = "def add(a, b):\n    return a - b"
IN_TAGS = f"<py>\n{ADD}\n</py>"
FENCED = f"```python\n{ADD}\n```"
INDENTED = ADD.replace("def", "    def").replace("\n", "\n    ")
HELPER, HELPED = "def total(*n):\n    return sum(n)", "def add(a, b):\n    return total(a, b)"
DOCSTRING = '    """Adds.\n\nNothing else.\n    """'
FENCE_IN_DOCSTRING = '    """So:\n```\nadd(1, 2)\n```\n    """'
TASK = "Answer with Python code only, between <py> and </py>. The code must define one top-level function `add`."

ANSWERS = {
    # Tags.
    "as asked": (f"\n{IN_TAGS}", "tags"),
    "one line": (f"<py>{ADD}</py>", "tags"),
    "prose around": (f"Sure! Here you are:\n\n{IN_TAGS}\n\nIt adds two numbers, as you'd expect.", "tags"),
    "the task's words first": (f"I write it between <py> and </py>.\n{IN_TAGS}", "tags"),
    "the task's words in ticks": (f"I don't use more than `<py>` and `</py>`:\n{IN_TAGS}", "tags"),
    "the whole task first": (f"{TASK}\n{IN_TAGS}", "tags"),
    "the task's words after": (f"{IN_TAGS}\nThat is between <py> and </py>, isn't it?", "tags"),
    "a second block corrects": (f"<py>\n{WRONG}\n</py>\nNo, that subtracts. Corrected:\n{IN_TAGS}", "tags"),
    "a block that is not closed before": (f"<py>\n{WRONG}\nWait.\n{IN_TAGS}", "tags"),
    "an example of a call after": (f"{IN_TAGS}\nUse it like this:\n<py>print(add(1, 2))</py>", "tags"),
    "indented": (f"<py>\n{INDENTED}\n</py>", "tags"),
    "indented with the tags": ("\n".join("  " + line for line in IN_TAGS.split("\n")), "tags"),
    "the first line alone indented": (f"<py> {ADD}\nx = 1</py>", "tags"),
    "tabs": (f"<py>\n{INDENTED}\n</py>".replace("    ", "\t"), "tags"),
    "upper case": (IN_TAGS.replace("py>", "PY>"), "tags"),
    "spaces in the tags": (IN_TAGS.replace("<py>", "< py >").replace("</py>", "</ py>"), "tags"),
    "the language's name": (IN_TAGS.replace("py>", "python>"), "tags"),
    "the end in a string": (f"<py>\nEND = '</py>'\n{ADD}\n</py>", "tags"),
    "the end in a docstring": (f'<py>\n"""Ends in\n</py>\nor not."""\n{ADD}\n</py>', "tags"),
    "both in a string": (f'<py>\nTAGS = "<py></py>"\n{ADD}\n</py>', "tags"),
    "an apostrophe in a comment": (f"<py>\n# It doesn't subtract\n{ADD}\n</py>\nIt isn't hard.", "tags"),
    "not closed": (f"<py>\n{ADD}", "tags"),
    "not opened": (f"{ADD}\n</py>\nDone.", "tags"),
    "half closed": (f"<py>\n{ADD}\n</p", "tags"),
    "a byte order mark": (f"\ufeff{IN_TAGS}", "tags"),
    "Windows' ends of lines": (IN_TAGS.replace("\n", "\r\n"), "tags"),
    "no-break spaces": (IN_TAGS.replace("    ", "\u00a0" * 4), "tags"),
    "a helper in the block": (f"<py>\n{HELPER}\n\n{HELPED}\n</py>", "tags"),
    "imports in the block": (f"<py>\nfrom operator import add as total\n\n{HELPED}</py>", "tags"),
    "a lambda": ("<py>add = lambda a, b: a + b</py>", "tags"),
    "an attribute": (IN_TAGS.replace("<py>", "<py lang='3'>"), "tags"),
    "white space without width": (IN_TAGS.replace("<py>", "\u200b<py>\u200b"), "tags"),
    "characters that are not seen": (IN_TAGS.replace(" ", "\u200b \u00ad").replace("+ ", "+\u00a0"), "tags"),
    "spaces and ends of lines of others": (IN_TAGS.replace("    ", "\u3000").replace("b\n", "b\u2028"), "tags"),
    "written as HTML": (f"&lt;py&gt;\n{ADD} if a &lt; b or a else &quot;0&quot; and b\n&lt;/py&gt;", "tags"),
    "written as HTML in tags": (f"<py>\n{ADD} if 2 &gt; 1 &lt; 3 else &#x27;a&#x27;\n</py>", "tags"),
    "not closed before prose": (f"<py>\n{ADD}\n\nThis adds two numbers.", "tags"),
    "the end of a chat's turn": (f"<py>\n{ADD}<|im_end|>\n", "tags"),
    "in a fence": (f"```python\n{IN_TAGS}\n```", "tags"),
    "a stray fence": (f"<py>\n{ADD}\n```\n</py>", "tags"),
    # A fence in tags.
    "a fence in tags": (f"<py>\n{FENCED}\n</py>", "fence in tags"),
    "a fence in tags, not closed": (f"<py>\n```python\n{ADD}\n</py>", "fence in tags"),
    "a fence in tags, neither closed": (f"<py>\n```\n{ADD}", "fence in tags"),
    "a fence in tags with prose": (f"<py>\nHere it is:\n{FENCED}\nThat's all.\n</py>", "fence in tags"),
    # A fence.
    "a fence": (f"Here you are:\n\n{FENCED}\n\nIt adds.", "fence"),
    "no language": (FENCED.replace("python", ""), "fence"),
    "short language": (FENCED.replace("python", "py"), "fence"),
    "language with a number": (FENCED.replace("python", "python3"), "fence"),
    "language and a title": (FENCED.replace("python", 'Python title="add.py"'), "fence"),
    "tildes": (FENCED.replace("```", "~~~"), "fence"),
    "a longer fence with another": (f"````markdown\nSo:\n{FENCED}\n````", "fence"),
    "a fence in a list": ("1. So:\n" + "\n".join("   " + line for line in FENCED.split("\n")), "fence"),
    "a fence not closed": (f"So:\n```python\n{ADD}", "fence"),
    "a fence, Windows": (FENCED.replace("\n", "\r\n"), "fence"),
    "a fence corrected": (FENCED.replace("+", "-") + f"\nNo:\n{FENCED}", "fence"),
    "a fence and its output": (f"{FENCED}\nIt prints\n```\n3\n```", "fence"),
    "a fence and a command": (f"```bash\npip install nothing\n```\n{FENCED}", "fence"),
    "a fence in a docstring": (FENCED.replace("    return", f"{FENCE_IN_DOCSTRING}\n    return"), "fence"),
    "tags in a fenced string": (FENCED.replace("    return", "    tags = '<py></py>'\n    return"), "fence"),
    "tags named, then a fence": (f"I leave <py> and </py> out.\n{FENCED}", "fence"),
    "in ticks": ("It is `def add(a, b): return a + b`.", "fence"),
    "a fence quoted": ("Thus:\n" + "\n".join("> " + line for line in FENCED.split("\n")), "fence"),
    "a fence and code in one line": (FENCED.replace("python\n", "python ").replace("\n```", "```"), "fence"),
    "a fence and prose in a line": (f"{FENCED} \U0001f680 Isn't that easy?", "fence"),
    "another name as well": (f"```\n{PLUS}\nadd = plus\n```\n```\ndef test_add(): ...\n```", "fence"),
    "a constant in a fence before": ("```\nZERO = 0\n```\n" + FENCED.replace("b\n", "b + ZERO\n"), "fence"),
    "HTML": ("<pre><code class='python'>def add(a, b):\n    return a + b if a &lt; b else b + a</code></pre>", "fence"),
    # Neither.
    "bare code": (ADD, "bare code"),
    "bare code, indented": (INDENTED, "bare code"),
    "bare code, a byte order mark": (f"\ufeff{ADD}\n", "bare code"),
    "bare code after prose": (f"Sure! Here's the code:\n\n{ADD}", "bare code"),
    "bare code before prose": (f"{ADD}\n\nThis function (which is short) adds: it doesn't subtract.", "bare code"),
    "bare code between prose": (f"The answer:\n{ADD}\nExplanation:\n- it adds", "bare code"),
    "bare code, decorated": (f"import functools\n\n\n@functools.cache\n{ADD}\n\n\nprint(add(1, 2))", "bare code"),
    "bare code with a docstring at the margin": (ADD.replace("    return", f"{DOCSTRING}\n    return"), "bare code"),
    "bare code with a list at the margin": (f"NAMES = [\n'a',\n'b',\n]\n{ADD}", "bare code"),
    "in brackets": (f"[PYTHON]\n{ADD}\n[/PYTHON]", "bare code"),
    "after a word": (f"**Answer:** {ADD}", "bare code"),
    "the end of a turn": (f"\u200e\f{ADD}<end_of_turn>", "bare code"),
    "the end of a text": (f"{ADD}<|endoftext|>", "bare code"),
    "bare code before a section": (f"{ADD}\n\n### Complexity\n\nO(1).", "bare code"),
    "bare code after a sentence": (f"return value is the sum of both.\n\n{ADD}", "bare code"),
    "IPython": ("In [1]: def add(a, b):\n   ...:     return a + b\n\nIn [2]: add(1, 2)\nOut[2]: 3", "bare code"),
    "a session that assigns": (">>> def add(a, b):\n...     c = a + b\n...     return c\n>>> x = 1", "bare code"),
    "a session": (">>> def add(a, b):\n...     return a + b\n...\n>>> add(1, 2)\n3", "bare code"),
}


def adds(code):
    module = {}
    exec(code, module)
    return module["add"](1, 2) == 3


@pytest.mark.parametrize("form", ANSWERS)
def test_a_right_answer_is_found_in_every_form(form):
    completion, where = ANSWERS[form]
    for found in (find_code(completion, "add"), *([] if "plus" in completion else [find_code(completion)])):
        assert adds(found.code), found
        assert found.form == where and where in FORMS
    assert extract_code(completion) == find_code(completion).code


@pytest.mark.parametrize(
    "completion, code",
    [
        ("", ""),
        ("I cannot do that.", ""),
        ("Add them, for example with sum, if you want: it's easy.", ""),
        ("</py> x <py>y", "y"),  # nothing like code, but said to be the answer
        ("Here: <py>    return 1</py> and <py>more</py>", "    return 1"),  # the body of a function
        ("<py>\nx = '<py>'\ncut", "x = '<py>'\ncut"),
    ],
)
def test_what_is_no_whole_function(completion, code):
    assert extract_code(completion) == code
    assert (find_code(completion).form == "nothing") == (code == "")


def test_blocks_that_the_answer_needs_go_with_it():
    helper, answer = "def total(*n):\n    return sum(n)", "def add(a, b):\n    return total(a, b)"
    for blocks in ((helper, answer), (answer, helper), (WRONG, helper, answer)):
        found = find_code("\n".join(f"```python\n{block}\n```" for block in blocks), "add")
        assert adds(found.code)
    found = find_code(
        f"```python\nimport operator\n```\nThen:\n```python\n{ADD.replace('a + b', 'operator.add(a, b)')}\n```", "add"
    )
    assert adds(found.code)


GIVEN = (
    "from typing import List\n\n\ndef one():\n    return 1\n\n\n"
    'def add(a: int, b: int) -> List[int]:\n    """ Add.\n    """\n'
)
BODY = "    total = a\n    for _ in range(b):\n        total += one()\n    return total"


@pytest.mark.parametrize(
    "completion",
    [
        BODY,
        f"{BODY}\n",
        f"\n{BODY}\n\n\ndef unrelated():\n    return 3\n",
        f"{BODY}\n\nThis is how it's done.",
        f"<py>\n{BODY}\n</py>",
        f"```python\n{BODY}\n```",
        f"<py>\n```\n{BODY}\n```\n</py>",
        BODY.lstrip(),
        f"<py>{BODY.lstrip()}</py>",
        BODY.replace("    ", "\t"),
        BODY.replace("    ", "  "),
        "\n".join(line[4:] for line in BODY.split("\n")),
        "    for _ in range(b):\n        a += 1\n    return a",
        "for _ in range(b):\n        a += 1\n    return a",
        "return a + b",
        "    return a + b",
        "  return a + b",
        "def inner(x):\n    return x + b\nreturn inner(a)",
        f"{GIVEN}{BODY}",
        f"<py>\n{GIVEN}{BODY}\n</py>",
        f"def add(a, b) -> List[int]:\n{BODY}",
        f"Here it is:\n```python\n{GIVEN}{BODY}\n```\n",
        "    # Add.\n    return a + b",
        "    'Add.'\n    return a + b",
        "def plus(a, b):\n    return a + b\n\nadd = plus",
        "from operator import add",
        "add: object = lambda a, b: a + b",
        f"from __future__ import annotations\n\n{ADD}",
        "if True:\n    def add(a, b):\n        return a + b",
        "add = a\nadd += b\nreturn add",
        "    total = [a, b]\n    total[::2] = [a]\n    total[0].real\n    return sum(total)",
        "    if (a or\n            b):\n        a += b\n    for _ in (\n            1,):\n        b = a\n    return b",
        "    c = a + \\\n        b\n    if c and \\\n            c:\n        pass\n    return c",
    ],
)
def test_a_body_or_a_whole_function_completes_what_is_given(completion):
    problem = CodeProblem("x/0", "Add.", "add", GIVEN, BODY, "")
    assert adds(program_of(problem, extract_code(completion, "add")))
    assert adds(program_of(problem, problem.reference))
