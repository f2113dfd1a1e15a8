"""What is asked, and what answers it."""

import pytest

from prism_hf.data import code_prompt, code_target, first_function_name


def test_prompt_and_target():
    prompt = code_prompt("Write a function that adds one.\n", "add_one")
    assert prompt.startswith("Write a function that adds one.\n\n")
    assert all(part in prompt for part in ("code only", "<py>", "</py>", "top-level function", "`add_one`"))
    assert code_target("def f():\n    pass") == "\n<py>\ndef f():\n    pass\n</py>"


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("import re\r\n\r\ndef find(x):\r\n    pass\r\ndef other(): pass", "find"),
        ("class A:\n    def inner(self): pass\n\nasync def outer(): pass", "outer"),
        ("def broken(x):\nprint 'Python 2'", "broken"),
        ("x = 1\n    def nested(): pass", None),
    ],
)
def test_first_function_name(code, name):
    assert first_function_name(code) == name
