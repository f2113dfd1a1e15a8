"""Finding the code in what a model answered, as a person would who reads it.

Nothing is parsed or compiled here: an answer can be written so that either ends the interpreter that does it, and that
must be the program's process. What was written is kept (`completions/` beside the results), so that it can be scored
anew.
"""

import ast
import html
import re
import textwrap
from typing import NamedTuple

# Where code was found, the surest first.
FORMS = ("fence in tags", "tags", "fence", "bare code", "nothing")

# One that is not closed ends with its line, or with the text. Each part has one way to match, so that none takes long.
STRING = (
    r"'''(?:\\[\s\S]|[^\\])*?(?:'''|\Z)|\"\"\"(?:\\[\s\S]|[^\\])*?(?:\"\"\"|\Z)"
    r"|'(?:\\[\s\S]|[^'\\\n])*'?|\"(?:\\[\s\S]|[^\"\\\n])*\"?"
)
COMMENT = r"#(?:(?!</?py)[^\n])*"
TAG = r"<[ \t]*py(?:thon)?3?(?:[ \t][^<>\n]*)?>"
END_TAG = r"<[ \t]*[/\\][ \t]*py(?:thon)?3?[ \t]*>"
# Code may begin in the same line.
FENCE = (
    r"^[ \t]*(?P<mark>`{3,}|~{3,})"
    r"(?:[ \t]*(?:python3?|py)?[ \t]*(?=(?:async[ ]|def[ ]|class[ ]|import[ ]|from[ ]|@))|[^\n`]*\n)"
)
IN_LINE = r"(`{1,3})(?:python3?[ \t]|py[ \t])?([^`\n]+)\1"
FENCE_LINE = r"[ \t]*(?:`{3,}|~{3,})[^\n]*"
FENCE_END = r"[ \t]*$|[ \t]+(?:\W|\w+[ ,.!])"  # prose may go on in its line
# What no Python has outside of strings: characters that are not seen, spaces and ends of lines of other scripts, what
# ends a turn of a chat, other markup of code.
FOREIGN = {
    "": "[\ufeff\u200b-\u200f\u2060\u2066-\u2069\u202a-\u202e\u00ad\f]",
    " ": "[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]",
    "\n": r"[\u0085\u2028\u2029]|<\|\w+\|>|<(?:start|end)_of_turn>|</s>|\A<s>|\[/[A-Z]+\]",
    "\n```\n": r"<pre\b[^<>\n]*>(?:\s*<code\b[^<>\n]*>)?|(?:</code>\s*)?</pre>",
}
# Of characters that are written as HTML writes them; an underscore stands for what follows a #.
ENTITY = r"&(?:lt|gt|amp|quot|apos);|&_"
# Words before a function in its line.
LABEL = r"^[ \t]*(?:[*_]*[A-Za-z][\w '\u2019]{0,30}:[*_]*[ \t]*|\[[A-Z]+\])(?=(?:async +def|def|class) +\w+ *[(:])"
# Quoted as in an answer to a mail.
QUOTED = r"^[ \t]*>(?!>) ?(?:`{3}|~{3}|def )"
PROMPTED = r"^[ \t]*(?:>>>|In \[\d+\]:|\.{3,}:?)(?: |$)"

DEFINITION = r"^(?:async[ \t]+)?(?:def|class)[ \t]+(\w+)|^(\w+)[ \t]*=[ \t]*lambda\b"
IMPORTED = r"^(?:from[ \t]+\S+[ \t]+)?import[ \t]+([^#\n]+)"
# How a line of code begins, its strings and comments written as underscores; prose may begin so too, but seldom does.
CODE_LINE = re.compile(
    r"""(?:async\s+)?def\s+\w+\s*\( | class\s+\w+\s*[:(] | @\w+ | import\s+[\w.]+(?:\s+as\s+\w+|\s*,\s*[\w.]+)*\s*$
    | from\s+[\w.]+\s+import\s | (?:async\s+)?for\s.+\sin\s.+: | (?:if|elif|while)\s.*: | (?:async\s+)?with\s.+:
    | (?:else|try|finally|except)\b[^:]*: | (?:return|yield|raise|assert|del|global|nonlocal|await)\b
    | (?:async\s+)?(?:if|elif|while|for|with)\s.*[(\[{]$ | (?:if|elif|while)\s*\( | .*\\$
    | (?:pass|break|continue|return)\s*$ | (?:match|case)\s.+:\s*$ | [\w.]+[(\[]
    | [\w.\[\]*][\w.,\[\]*\s_]*(?::\s*[\w.\[\], |]+)?(?:[-+*/%&|^@]|//|\*\*|<<|>>|:)?=(?!=)
    | [)\]}({\[_]""",
    re.VERBOSE,
)
PROSE = re.compile(r"[A-Z][\w']*[ ,.!:]|[^\x00-\x7f]|[*-]+ ?[A-Z`]")
SENTENCE_END = re.compile(r"[^\W\d][.!?]$|[)`*][.!?]$")


class FoundCode(NamedTuple):
    """Code that was found in an answer.

    Args:
        code (`str`): Empty if none was found.
        form (`str`): Where it was: one of `FORMS`.

    Example:
        ```python
        >>> find_code("Sure! <py>x = 1</py>")
        FoundCode(code='x = 1', form='tags')
        ```
    """

    code: str
    form: str


def find_code(completion: str, entry_point: str | None = None) -> FoundCode:
    """The code of an answer, without what surrounds it, not indented unless it is the body of a function.

    Looked at are, in this order, blocks between <py> and </py> (of which a fence inside is the code), fenced blocks,
    and text that is code. Preferred is what defines the function `entry_point`, then what gives that name another way,
    what defines anything, and what looks like code; of several such blocks the last, as a second one corrects the
    first. An end that is missing is where prose goes on, or that of the answer. Blocks that define what the chosen one
    calls go with it. A method of a class is no such function: nothing is added that was not written.

    Args:
        completion (`str`): The answer.
        entry_point (`str`, *optional*): The function that was asked for.

    Returns:
        `FoundCode`: The code, and where it was.

    Example:
        ```python
        >>> find_code("It is `def one(): return 1`.", "one").code
        'def one(): return 1'
        ```
    """
    text = _plain_text(completion)
    tagged = _tagged_blocks(text)
    found = {
        "fence in tags": [inner for block in tagged for inner in _fenced_blocks(block)],
        "tags": [_without_fences(block) for block in tagged],
        "fence": _fenced_blocks(text),
        "bare code": [_bare_code(_unescaped(text))],
    }
    found = {form: [_straighten(_unescaped(block)) for block in blocks] for form, blocks in found.items()}
    for suits in (
        lambda code: entry_point in _defined(code),
        lambda code: entry_point is not None and binds(code, entry_point),
        _defined,
        _looks_like_code,
    ):
        for form, blocks in found.items():
            suitable = [block for block in blocks if suits(block)]
            if suitable:
                return FoundCode(_with_helpers(suitable[-1], blocks, entry_point), form)
    # Not like code, and yet said to be the answer.
    for form, blocks in found.items():
        blocks = [block for block in blocks if block.strip()]
        if blocks:
            return FoundCode(blocks[-1], form)
    return FoundCode("", "nothing")


def extract_code(completion: str, entry_point: str | None = None) -> str:
    """The code of an answer, without where it was.

    Args:
        completion, entry_point: See `find_code`.

    Returns:
        `str`: The code, empty if there is none.

    Example:
        ```python
        >>> extract_code("<py>x = 1</py>")
        'x = 1'
        ```
    """
    return find_code(completion, entry_point).code


def as_body(code: str) -> str:
    """Code without a function's head as the body of one, indented by four, wherever its indentation was lost."""
    lines = code.strip("\n").split("\n")
    depths = [len(line) - len(line.lstrip()) for line in lines if line.strip()]
    if not depths:
        return ""
    if depths[0] > 0:
        first = next(line for line in lines if line.strip())
        own = first[: depths[0]]
        return "\n".join("    " + line.removeprefix(own) if line.startswith(own) else line for line in lines)
    rest = min(depths[1:], default=0)
    # The first line alone lost it, together with the white space that the answer began with.
    if rest > 0 and not (lines[0].rstrip().endswith(":") and depths[1] == rest):
        return "\n".join([" " * rest + lines[0], *lines[1:]])
    return textwrap.indent("\n".join(lines), "    ")


def _plain_text(text: str) -> str:
    """An answer without what is foreign to Python, quotation marks of mails, and labels before functions."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if re.search(r"&lt;[ \t]*/?[ \t]*py", text):
        text = html.unescape(text)
    for replacement, pattern in FOREIGN.items():
        outside = re.compile(f"(?P<kept>{STRING})|{pattern}", re.IGNORECASE)
        text = outside.sub(lambda match: match["kept"] or replacement, text)  # noqa: B023  (called at once)
    if re.search(QUOTED, text, re.MULTILINE):
        text = re.sub(r"^[ \t]*>(?!>) ?", "", text, flags=re.MULTILINE)
    return re.sub(LABEL, "", text, flags=re.MULTILINE)


def _unescaped(code: str) -> str:
    """Code whose operators or quotes are written as HTML writes them, as Python writes them."""
    return html.unescape(code) if re.search(ENTITY, _without_strings(code)) else code


def _without_prose(block: str) -> str:
    """A block whose end is missing, up to where prose goes on."""
    code = "" if re.search(f"^{FENCE_LINE}$", block, re.MULTILINE) else _bare_code(block)
    if not code or _defined(_straighten(code)) != _defined(_straighten(block)):
        return block
    rest = block.partition(code)[2].strip()
    return code if not rest or PROSE.match(rest) else block


def _tagged_blocks(text: str) -> list[str]:
    """What follows each <py>, up to its end. Text before an end without a beginning is one: the prompt had it."""
    beginning = re.compile(TAG, re.IGNORECASE)
    first, end = beginning.search(text), re.search(END_TAG, text, re.IGNORECASE)
    blocks, at = [], 0
    if end and (first is None or end.start() < first.start()):
        stop, at = _end_of_code(text, 0, END_TAG)
        blocks.append(text[:stop])
    while begin := beginning.search(text, at):
        stop, at = _end_of_code(text, begin.end(), rf"{END_TAG}|(?={TAG})")
        block = text[begin.end() : stop]
        if stop == len(text):
            block = _without_prose(re.sub(r"\n[ \t]*<(?:/p?y?)?\Z", "", block))  # an end that was cut
        blocks.append(block)
    return blocks


def _fenced_blocks(text: str, depth: int = 1) -> list[str]:
    """What is between lines of backticks or tildes, or of those within a longer one, and functions within a line."""
    blocks, at = [match[2] for match in re.finditer(IN_LINE, text) if re.match(DEFINITION, match[2])], 0
    fence = re.compile(FENCE, re.MULTILINE)
    while begin := fence.search(text, at):
        mark = begin["mark"]
        stop, at = _end_of_code(text, begin.end(), rf"{re.escape(mark)}{re.escape(mark[0])}*(?:{FENCE_END})")
        block = text[begin.end() : stop]
        block = _without_prose(block) if stop == len(text) else block
        inner = _fenced_blocks(block, depth - 1) if depth and len(mark) > 3 else []
        blocks += inner if any(map(_defined, map(_straighten, inner))) else [block]
    return blocks


def _without_fences(block: str) -> str:
    """A block without lines of fences, one half of a pair, at its beginning and end."""
    lines = block.strip("\n").split("\n")
    while lines and re.fullmatch(FENCE_LINE, lines[0]):
        lines.pop(0)
    while lines and re.fullmatch(FENCE_LINE, lines[-1]):
        lines.pop()
    return "\n".join(lines)


def _end_of_code(text: str, start: int, end: str) -> tuple[int, int]:
    """Where the pattern `end` first matches outside of strings, and where that match ends; else the end of the text."""
    for match in re.compile(f"{STRING}|{COMMENT}|(?P<end>{end})", re.IGNORECASE | re.MULTILINE).finditer(text, start):
        if match["end"] is not None:
            return match.span("end")
    return len(text), len(text)


def _bare_code(text: str) -> str:
    """The lines of text from the first that is code to the last before prose goes on; empty if none is."""
    lines = text.split("\n")
    prompted = [number for number, line in enumerate(lines) if re.match(PROMPTED, line)]
    if prompted and not any(_is_code(line.strip()) for line in lines[: prompted[0]]):  # else they are in a docstring
        lines = [re.sub(PROMPTED, "", lines[number]) for number in prompted]
    start = next((number for number, line in enumerate(lines) if _begins_code(line)), None)
    if start is None:
        return ""
    depth, kept = 0, 0
    base = len(lines[start]) - len(lines[start].lstrip())
    for line in _without_strings("\n".join(lines[start:])).split("\n"):
        words = line.strip()
        outside = len(line) - len(line.lstrip()) <= base and depth <= 0
        if words and outside and not _is_code(words):
            break
        depth += sum(map(line.count, "([{")) - sum(map(line.count, ")]}"))
        kept += 1
    return "\n".join(lines[start : start + kept])


def _begins_code(line: str) -> bool:
    """Whether code begins at a line: it looks like some, or is indented as the body of a function is."""
    words = _without_strings(line).strip()
    if not words or words.startswith("_"):
        return bool(words) and line[:1] in " \t" and not PROSE.match(line.strip())
    indented = line.startswith(("  ", "\t")) and not PROSE.match(words) and words[0].isidentifier()
    return _is_code(words) or indented


def _is_code(line: str) -> bool:
    is_prose = re.fullmatch(r"\[/?[A-Z]+\]", line) or SENTENCE_END.search(line)  # [PYTHON]
    return CODE_LINE.match(line[:300]) is not None and not is_prose


def _looks_like_code(code: str) -> bool:
    return any(_is_code(line.strip()) for line in _without_strings(code).split("\n") if line.strip("_ \t"))


def _without_strings(code: str) -> str:
    """Code in which each character of strings and comments, but for ends of lines, is an underscore."""
    return re.sub(f"{STRING}|{COMMENT}", lambda match: re.sub(r"[^\n]", "_", match[0]), code)


def _straighten(block: str) -> str:
    """A block without the indentation that all its lines have, or the first alone; that of a body stays."""
    code = block.strip("\n")
    code = re.sub(r"\A[ \t]+(?=(?:def|class|async|from|import|@)\b[\s\S]*\n\S)", "", code).rstrip()
    level = textwrap.dedent(code)
    return code if _returns(level) else level


def _returns(code: str) -> bool:
    """Whether code returns at its margin, as the body of a function does."""
    return re.search(r"^(?:return|yield)\b", _without_strings(code), re.MULTILINE) is not None


def _defined(code: str) -> set[str]:
    """The names of functions and classes that code defines at its top level."""
    return {
        name
        for match in re.finditer(DEFINITION, _without_strings(code), re.MULTILINE)
        for name in match.groups()
        if name
    }


def is_python(code: str) -> bool:
    """Whether code can be parsed, by the Python that runs this."""
    try:
        ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def binds(code: str, name: str) -> bool:
    """Whether code that is no body of a function gives a value to a name, also by assignment, import or condition."""
    given = rf"^{name}[ \t]*(?::[^=\n]*)?=(?!=)|^[ \t]+(?:async[ \t]+)?def[ \t]+{name}\b"
    is_given = name in _defined(code) | _imported(code) or re.search(given, _without_strings(code), re.MULTILINE)
    return bool(is_given) and code[:1] not in " \t" and not _returns(code)


def _imported(code: str) -> set[str]:
    parts = (part for match in re.finditer(IMPORTED, code, re.MULTILINE) for part in match[1].strip("() ").split(","))
    return {part.split()[-1].split(".")[0] for part in parts if part.split()}


def _with_helpers(code: str, blocks: list[str], entry_point: str | None) -> str:
    """Code after those of the other blocks that define or import what it names and has not itself."""
    own = _defined(code) | _imported(code) | _constants(code)
    helpers = []
    for block in dict.fromkeys(blocks):
        names = _defined(block) | _imported(block)
        if not re.search(rf"\b{entry_point}\b", block):  # else it may be an example of a call
            names |= _constants(block)
        is_needed = any(re.search(rf"\b{name}\b", code) for name in names - own)
        if is_needed and block != code and entry_point not in names:
            helpers.append(block)
    return "\n\n".join([*helpers, code])


def _constants(code: str) -> set[str]:
    return set(re.findall(r"^([A-Z][A-Z\d_]*)[ \t]*=(?!=)", _without_strings(code), re.MULTILINE))
