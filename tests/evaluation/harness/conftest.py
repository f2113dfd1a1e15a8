"""A tiny LLaDA of text on the disk, and tasks of its own for the harness, all of it local."""

import json

import pytest
import yaml

TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}"
    "{% if not (loop.last and message.role == 'assistant') %}{{ '\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
QUESTIONS = [{"question": f"def f{i}(x, y):", "answer": f"return x + {i}", "wrong": "pass"} for i in range(6)]
DATA = {"dataset_path": "json", "test_split": "test", "num_fewshot": 0, "metadata": {"version": 1.0}}
EXACT = [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}]
TASKS = {
    "answers": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "metric_list": EXACT,
        "generation_kwargs": {"until": ["e", "\n\n"], "max_gen_toks": 12, "do_sample": False},
    },
    "opened": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "gen_prefix": "return",
        "metric_list": EXACT,
        "generation_kwargs": {"until": [], "max_gen_toks": 12, "do_sample": False},
    },
    "choices": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_target": 0,
        "doc_to_choice": "{{[answer, wrong]}}",
        "target_delimiter": "\n    ",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    },
    "texts": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{question}} {{answer}}",
        "metric_list": [{"metric": "bits_per_byte"}],
    },
}


@pytest.fixture(scope="session")
def tokenizer(text_tokenizer):
    import copy

    own = copy.deepcopy(text_tokenizer)
    own.chat_template = TEMPLATE
    return own


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory, text_model, tokenizer):
    """The folder of the model and its tokenizer."""
    folder = tmp_path_factory.mktemp("llada")
    text_model().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tasks(tmp_path_factory):
    """The folder of the tasks."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, QUESTIONS)))
    files = {"dataset_kwargs": {"data_files": {"test": str(folder / "data.jsonl")}}}
    for name, task in TASKS.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"task": f"own_{name}", **DATA, **files, **task}))
    return folder
