"""Every strategy, order, cache and sampler generates what it did when the file of fixtures was recorded."""

import json
import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_tokens_are_as_recorded():
    script = runpy.run_path(str(ROOT / "scripts" / "record_generations.py"))
    recorded = json.loads((ROOT / "tests" / "fixtures" / "recorded_generations.json").read_text(encoding="utf-8"))
    now = script["record"]()
    assert [name for name in recorded | now if recorded.get(name) != now.get(name)] == []
