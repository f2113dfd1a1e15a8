"""What may leave this machine: no token of the Hub, no folder's place.

This holds for all that is saved or pushed. No trainer writes `training_args.bin`, a pickle with `hub_token` in it which
nothing reads; `training_args.json` has folders by their last part. A saved state of training has the step of the best
checkpoint in place of its path.
"""

import json
import os
import re
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}\b")
# The user and password of an address, and a path that begins at the root, of which the last part is a name.
CREDENTIALS = re.compile(r"(?<=://)[^/\s@]+@")
ABSOLUTE_PATH = re.compile(r"(?<![\w/.~:<-])(?:file:/{1,3})?/(?:[^\s/:,;=\"']+/)+([^\s/:,;=\"']*)")
# Entries of a config that hold a token.
TOKEN_NAMES = ("token", "hub_token", "use_auth_token")


def _is_absolute(text: str) -> bool:
    return PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute()


def portable(value: Any) -> Any:
    """JSON data in which each absolute path is its last part, and which holds no token and no password."""
    if isinstance(value, dict):
        return {portable(name): portable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [portable(item) for item in value]
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        return value
    if _is_absolute(value) and "\n" not in value:
        path = PurePosixPath(value) if PurePosixPath(value).is_absolute() else PureWindowsPath(value)
        return path.name
    for pattern, replacement in ((TOKEN, "<token>"), (CREDENTIALS, ""), (ABSOLUTE_PATH, r"\1")):
        value = pattern.sub(replacement, value)
    return value


def make_portable(path: Path) -> None:
    """Take tokens out of a config in JSON, and of what is an absolute path all but the last part; texts stay."""

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: clean(item) for name, item in value.items() if name not in TOKEN_NAMES}
        if isinstance(value, list):
            return [clean(item) for item in value]
        return portable(value) if isinstance(value, str) and _is_absolute(value) else value

    if path.exists():
        config = json.loads(path.read_text(encoding="utf-8"))
        if clean(config) != config:
            path.write_text(json.dumps(clean(config), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
