"""What is asked for a function, and what answers it."""

import ast
import io
import re
import tokenize
import warnings


def code_prompt(instruction: str, entry_point: str, signature: str | None = None) -> str:
    """The prompt for a function: the instruction, and how to answer it.

    Args:
        instruction (`str`): What the function is to do.
        entry_point (`str`): Its name.
        signature (`str`, *optional*): The line that it is to begin with, which then stands for its name.

    Example:
        ```python
        input_ids = tokenizer(code_prompt("Add two numbers.", "add")).input_ids
        ```
    """
    named = f"with the name `{entry_point}`" if signature is None else f"that begins with `{signature}`"
    return (
        f"{instruction.strip()}\n\nAnswer with Python code only, between <py> and </py>. The code must define one "
        f"top-level function {named}."
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


def signature_of(code: str, name: str) -> str | None:
    """The head of a top-level function as it is written, up to its colon; None if there is none.

    Example:
        ```python
        >>> signature_of("def add(a: int, b=1): return a + b", "add")
        'def add(a: int, b=1):'
        ```
    """
    head = re.search(rf"^(?:async +)?def +{re.escape(name)}\b", code, re.MULTILINE)
    if head is None:
        return None
    lines, depth = code[head.start() :].replace("\r\n", "\n").splitlines(keepends=True), 0
    try:
        for token in tokenize.generate_tokens(io.StringIO("".join(lines)).readline):
            if token.type == tokenize.OP:
                depth += (token.string in "([{") - (token.string in ")]}")
            if depth == 0 and token.string == ":":
                row, column = token.end
                return "".join([*lines[: row - 1], lines[row - 1][:column]])
    except (tokenize.TokenError, SyntaxError):
        pass
    return None


def first_docstring(code: str) -> str | None:
    """The docstring of the first top-level function, not indented; None without one, or where code is no Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # of backslashes in strings
            body = ast.parse(code).body
    except (SyntaxError, ValueError):
        return None
    functions = [node for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return ast.get_docstring(functions[0]) if functions else None


def without_doctests(text: str) -> str:
    """A docstring without its doctests, each from a `>>>` to the next blank line; all of it if nothing else is there.

    Example:
        ```python
        >>> without_doctests("The sum.\\n\\n>>> add(1, 2)\\n3")
        'The sum.'
        ```
    """
    return re.sub(r"^[ \t]*>>>[\s\S]*?(?:\n[ \t]*(?:\n|\Z)|\Z)", "", text, flags=re.MULTILINE).strip() or text
