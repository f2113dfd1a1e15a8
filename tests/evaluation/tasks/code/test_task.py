"""The task code, on a model that knows its answers by the prompts."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from prism_hf.data import train_byte_level_bpe
from prism_hf.evaluation import compare, expand_grid, isolation_problem, load_task
from prism_hf.evaluation.comparison.settings import evaluate_settings
from prism_hf.evaluation.tasks.task import PADDING
from prism_hf.generation import remask_generate

ANSWERS = {
    "one": "\n<py>\ndef one():\n    return 1\n</py>",
    "forty_two": "\n<py>\ndef forty_two():\n    return 41\n</py>",
    "three": "\n<py>\ndef three():\n    return 3\n</py>",
    "tuned": "\n<py>\ndef tuned():\n    return 0\n</py>",
}
NEW = 48


def problem(task_id, name, value, text="Give a number"):
    return {
        "task_id": task_id,
        "text": text,
        "code": f"def {name}():\n    return {value}",
        "test_setup_code": "",
        "test_list": [f"assert {name}() == {value}"],
    }


ROWS = [
    problem(511, "tuned", 0),
    problem(11, "one", 1),
    problem(12, "forty_two", 42, text="Give the number that answers every question that anybody has"),
    problem(510, "three", 3),
    problem(601, "unused", 0),
]


class Answerer(nn.Module):
    """Gives the answer to the prompt that it finds among its tokens, whatever the padding."""

    def __init__(self, folder):
        super().__init__()
        (folder / "corpus.py").write_text("def one():\n    return 1\n" * 20)
        tokenizer = train_byte_level_bpe([folder / "corpus.py"], 280)
        tokenizer.save_pretrained(folder)
        self.config = SimpleNamespace(mask_token_id=tokenizer.mask_token_id, vocab_size=280)
        self.name_or_path, self.tokenizer = str(folder), tokenizer
        self.scale, self.calls = nn.Parameter(torch.ones(1)), 0

    def forward(self, input_ids, attention_mask=None, return_quality=True):
        self.calls += 1
        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        logits = torch.zeros(*input_ids.shape, 280)
        for row, (ids, kept) in enumerate(zip(input_ids, real, strict=True)):
            length = int(kept.sum())
            assert bool(kept[:length].all())  # the canvas has its padding last
            prompt = self.tokenizer.decode(ids[: length - NEW])
            (answer,) = [text for name, text in ANSWERS.items() if f"`{name}`" in prompt]
            ids = self.tokenizer(answer, add_special_tokens=False).input_ids
            ids = ids + [self.tokenizer.eos_token_id] * (NEW - len(ids))
            logits[row, torch.arange(length - NEW, length), torch.tensor(ids)] = 9.0
        return SimpleNamespace(logits=logits, quality_logits=logits.amax(-1))


@pytest.fixture
def files(tmp_path):
    (tmp_path / "mbpp.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


@pytest.fixture
def arguments(files):
    isolation = "namespaces" if isolation_problem() is None else "limits"
    return {"problems_file": str(files / "mbpp.jsonl"), "max_new_tokens": NEW, "isolation": isolation}


def test_the_test_split_is_reported_and_another_tuned_on(files, arguments):
    model = Answerer(files)
    task = load_task("code", model, num_tuning_problems=1, **arguments)
    masks = task.examples == model.config.mask_token_id
    assert len(task.examples) == 3 and len(task.tuning_examples) == 1 and masks[:, -NEW:].all()
    texts = [
        model.tokenizer.decode(row[(row != PADDING) & ~mask]) for row, mask in zip(task.examples, masks, strict=True)
    ]
    assert ["`one`" in texts[0], "`forty_two`" in texts[1], "`three`" in texts[2]] == [True] * 3
    assert texts[0].startswith("Give a number\n") and (task.examples[0] == PADDING).any()
    points = expand_grid([{"name": "none"}, {"name": "prism", "num_remask": [1, 2]}], ["confidence"], [0], [4])
    rows = compare(model, task, points, files / "rows.jsonl", batch_size=2)
    assert [row["scores"].tolist() for row in rows] == [[True, False, True]] * 2
    assert [candidate["score"] for candidate in rows[1]["candidates"]] == [1.0, 1.0]
    calls = model.calls
    compare(model, task, points, files / "rows.jsonl", batch_size=2)
    assert model.calls == calls
    others = load_task("code", model, num_tuning_problems=1, **arguments | {"timeout": 9.0})
    compare(model, others, points, files / "rows.jsonl", batch_size=2)  # which may score otherwise
    assert model.calls == 2 * calls


def test_a_prompt_may_be_a_turn_of_a_chat(files, arguments):
    model = Answerer(files)
    task = load_task("code", model, num_problems=1, apply_chat_template=True, **arguments)
    (plain,) = load_task("code", model, num_problems=1, **arguments).examples
    chat = [{"role": "user", "content": model.tokenizer.decode(plain[:-NEW])}]
    expected = model.tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True).input_ids
    assert task.examples[0, :-NEW].tolist() == expected
    model.tokenizer.chat_template = None
    (files / "chat_template.jinja").unlink()
    model.tokenizer.save_pretrained(files)
    with pytest.raises(ValueError, match="no chat template: leave apply_chat_template off"):
        load_task("code", model, apply_chat_template=True, **arguments)


def test_padding_makes_no_difference(files, arguments):
    model = Answerer(files)
    task = load_task("code", model, **arguments)
    setting = {"order": "random", "steps": 5, "do_sample": True, "temperature": 0.5}
    seen = []
    evaluate_settings(
        model,
        task.examples,
        [setting],
        files / "padded.jsonl",
        lambda sequences: seen.append(sequences) or {},
        {},
        batch_size=1,
    )
    for start, (row, example) in enumerate(zip(seen[0], task.examples, strict=True)):
        alone = example[example != PADDING][None]
        generator = torch.Generator().manual_seed(start)
        expected = remask_generate(model, alone, generator=generator, remask_strategy="none", **setting)
        assert torch.equal(row[-alone.shape[1] :], expected[0])
        assert (row[: -alone.shape[1]] == 0).all()


def test_text_after_the_end_of_sequence_is_none(files, arguments):
    model = Answerer(files)
    task = load_task("code", model, num_problems=1, **arguments)
    tokenizer = model.tokenizer
    ids = tokenizer("<py>def one(): return 1", add_special_tokens=False).input_ids
    rest = tokenizer(" +" * NEW, add_special_tokens=False).input_ids
    for between, passed in (([tokenizer.eos_token_id], True), ([], False)):
        sequences = task.examples.clone()
        sequences[0, -NEW:] = torch.tensor((ids + between + rest)[:NEW])
        judged = task.judge(sequences, task.examples)
        assert judged.scores.tolist() == [passed]
        assert judged.num_tokens.tolist() == [len(ids) if between else NEW]


def test_what_cannot_be_is_told_before_any_work(files, arguments):
    model = Answerer(files)
    for more, message in (
        ({"num_problems": 4}, "num_problems=4 is more than the 3 problems of .*mbpp.jsonl: lower it"),
        (
            {"num_tuning_problems": 2},
            "num_tuning_problems=2 is more than the 1 problems of the validation split of MBPP",
        ),
        ({"num_problems": 0}, "num_problems=0 of the task code must be an integer of at least 1"),
        ({"max_new_tokens": "512"}, "max_new_tokens='512'"),
        ({"isolation": "none"}, "isolation='none' of the task code must be one of"),
        ({"tokenizer": str(files / "nowhere")}, "nowhere has no tokenizer: set the task's tokenizer"),
        ({"problem_file": "x"}, "'problem_file'.*'problems_file'"),
    ):
        with pytest.raises(ValueError, match=message):
            load_task("code", model, **arguments | more)
    task = load_task("code", model, **arguments)
    points = expand_grid([{"name": "prism", "num_remask": [1, 2]}], ["confidence"], [0], [4])
    with pytest.raises(ValueError, match="nothing to choose one on: let the task have examples to tune on"):
        compare(model, replace(task, tuning_examples=task.tuning_examples[:0]), points, files / "rows.jsonl")
    assert model.calls == 0


def test_completions_are_kept_with_where_their_code_was(files, arguments):
    model = Answerer(files)
    task = load_task("code", model, num_samples=3, **arguments)
    greedy = [{"name": "random", "num_remask": 1}, {"name": "none"}]
    with pytest.raises(ValueError, match=r"The 3 samples of each prompt would be equal: do_sample=False"):
        compare(model, task, expand_grid(greedy, ["confidence"], [0], [4]), files / "rows.jsonl")
    assert model.calls == 0
    (row,) = compare(model, task, expand_grid([{"name": "none"}], ["random"], [0], [4]), files / "rows.jsonl")
    assert row["scores"].tolist() == [1.0, 0.0, 1.0]  # shares of three answers each
    assert row["measures"] == {"parses": 1, "code found in": "tags 9", "pass@3": pytest.approx(2 / 3)}
    kept = [json.loads(line) for line in (files / row["completions"]).read_text().splitlines()]
    assert [(each["task_id"], each["sample"]) for each in kept] == [(n, k) for n in (11, 12, 510) for k in range(3)]
    assert kept[0]["completion"] == ANSWERS["one"] and kept[3]["completion"] == ANSWERS["forty_two"]
    assert [each["passed"] for each in kept] == [True] * 3 + [False] * 3 + [True] * 3
    assert kept[3]["reason"] == "failed" and {each["found"] for each in kept} == {"tags"}
