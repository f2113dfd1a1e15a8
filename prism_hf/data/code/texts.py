"""What is asked for a function, and what answers it."""

import re


def code_prompt(instruction: str, entry_point: str) -> str:
    """The prompt for a function: the instruction, and how to answer it.

    Example:
        ```python
        input_ids = tokenizer(code_prompt("Add two numbers.", "add")).input_ids
        ```
    """
    return (
        f"{instruction.strip()}\n\nAnswer with Python code only, between <py> and </py>. The code must define one "
        f"top-level function with the name `{entry_point}`."
    )


def code_target(code: str) -> str:
    """What follows the prompt."""
    return f"\n<py>\n{code}\n</py>"


def first_function_name(code: str) -> str | None:
    """The name of the first top-level function, None if there is none. The code need not be valid Python.

    Example:
        ```python
        assert first_function_name("def add(a, b):\\n    return a + b") == "add"
        ```
    """
    match = re.search(r"^(?:async +)?def +(\w+)", code, re.MULTILINE)
    return match[1] if match else None
