"""The model `prism_hf` of lm-evaluation-harness: what it answers, against a plain loop, and the harness's own runs."""

import dataclasses
import inspect
import json
import os
import re
import runpy
import sys
from functools import partial
from pathlib import Path

import lm_eval
import pytest
import torch
import yaml
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.config.evaluate_config import EvaluatorConfig
from lm_eval.tasks import TaskManager

from prism_hf import PrismForMaskedDiffusion, RemaskGenerationConfig, load_model
from prism_hf.evaluation import Continuation, log_likelihood_bound
from prism_hf.evaluation.harness.lm_eval import PrismLM
from prism_hf.evaluation.harness.settings import read_settings, settings_of_request
from prism_hf.models.prism import PrismConfig

RECIPES = Path(__file__).parents[3] / "recipes"
HARNESS = Path(lm_eval.__file__).parent


def requests(arguments, kind="generate_until", repeats=1):
    return [Instance(kind, {}, each, 0, metadata=("own", i, repeats)) for i, each in enumerate(arguments)]


def asked(number, **gen_kwargs):
    """Prompts of different lengths, of what the tokenizer was made for."""
    gen_kwargs = {"until": ["e", "\n\n"], "max_gen_toks": 16, "do_sample": False} | gen_kwargs
    words = ["def", "mask", "tokens", "return", "logits", "batch", "of", "in", "canvas", "step"]
    texts = (" ".join(words[(i * k) % 10] for k in range(1, 2 + i % 7)) for i in range(number))
    return [(f"# {i} {text}", gen_kwargs) for i, text in enumerate(texts)]


def plain_answer(model, tokenizer, context, gen_kwargs):
    """One request as LLaDA's own class answers it."""
    ids = tokenizer(context, return_tensors="pt").input_ids
    new = model.generate(ids, max_new_tokens=16, steps=4, eos_token_id=tokenizer.eos_token_id)[
        0, ids.shape[1] :
    ].tolist()
    new = new[: new.index(tokenizer.eos_token_id)] if tokenizer.eos_token_id in new else new
    text = tokenizer.decode(new)
    for stop in gen_kwargs["until"]:
        if stop in text:
            text = text.split(stop)[0]
    return tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True)


def test_fifty_answers_are_those_of_a_plain_loop_in_any_batch(checkpoint, tokenizer):
    model, arguments = load_model(checkpoint), asked(50)
    expected = [plain_answer(model, tokenizer, *each) for each in arguments]
    assert len(set(expected)) > 5
    for batch_size in (1, 4, "7"):
        lm = PrismLM(checkpoint, batch_size=batch_size, steps=4)
        assert lm.generate_until(requests(arguments), disable_tqdm=True) == expected
        assert lm.counts["own"].answers == 50 and lm.counts["own"].forwards == 50 * 4


def test_likelihoods_are_the_bounds_of_the_tokens_in_any_batch(checkpoint, tokenizer):
    pairs = [(context, f" {answer}") for context, _ in asked(9) for answer in ("return x", "pass")] + [("", "def")]
    found = {}
    for batch_size in (1, 4):
        lm = PrismLM(checkpoint, batch_size=batch_size, mc_num=8, mc_batch_size=4)
        found[batch_size] = lm.loglikelihood(requests(pairs, "loglikelihood"), disable_tqdm=True)
    assert [bound for bound, _ in found[1]] == pytest.approx([bound for bound, _ in found[4]], abs=1e-4)
    again = lm.loglikelihood(requests(pairs[::-1], "loglikelihood"), disable_tqdm=True)[::-1]
    assert [bound for bound, _ in again] == pytest.approx([bound for bound, _ in found[4]], abs=1e-4)
    ids = [[tokenizer(text).input_ids for text in (context, context + answer)] for context, answer in pairs[:-1]]
    seeds = [lm._continuation(pair, [1], [1]).seed for pair in pairs]
    texts = [
        Continuation(before, whole[len(before) :], seed) for (before, whole), seed in zip(ids, seeds, strict=False)
    ]
    texts.append(Continuation([lm.prefix_token_id], tokenizer("def").input_ids, seeds[-1]))
    bounds = log_likelihood_bound(lm.model, texts, tokenizer.mask_token_id, mc_num=8, mc_batch_size=4)
    assert [bound for bound, _ in found[1]] == pytest.approx(bounds, abs=1e-4)
    assert not any(greedy for _, greedy in found[1])


def test_what_the_model_writes_is_greedy_where_that_is_asked(checkpoint):
    lm = PrismLM(checkpoint, mc_num=1, is_check_greedy=True, eos_token_id=[], add_bos_token=False)
    ids = lm.tok_encode("def of")
    new = lm.model.generate(torch.tensor([ids]), max_new_tokens=5, eos_token_id=[])[0, len(ids) :].tolist()
    found = lm._loglikelihood_tokens([(("a", "b"), ids, new), (("a", "c"), ids, new[::-1])], disable_tqdm=True)
    assert [greedy for _, greedy in found] == [True, False]


def test_texts_longer_than_the_model_are_scored_in_windows(checkpoint, tokenizer):
    lm = PrismLM(checkpoint, mc_num=4, mc_batch_size=4, max_length=9)
    text = "def mask(tokens, canvas): return tokens"
    (bound,) = lm.loglikelihood_rolling(requests([(text,)], "loglikelihood_rolling"), disable_tqdm=True)
    ids, parts = tokenizer(text).input_ids, []
    for number, start in enumerate(range(0, len(ids), 8)):
        end = min(start + 8, len(ids))  # the last one reads as much of what comes before as there is room for
        before = ids[end - 9 : start] if start else [lm.prefix_token_id]
        parts.append(Continuation(before, ids[start : start + 8], lm._continuation((text, number), [1], [1]).seed))
    assert len(parts) > 2 and len(parts[-1].prefix) > 1
    assert bound == pytest.approx(sum(lm._bounds(parts)), abs=1e-4)
    with pytest.raises(ValueError, match="set likelihood='llada'"):
        PrismLM(checkpoint, likelihood="dream").loglikelihood_rolling(requests([(text,)]))


def test_dreams_rule_appends_eos(checkpoint, tokenizer):
    lm = PrismLM(checkpoint, likelihood="dream", mc_num=8)
    assert lm._continuation(("a", "b"), [5, 6], [7]).target == [7, tokenizer.eos_token_id]
    ((bound, _),) = lm.loglikelihood(requests([("def", " of in")], "loglikelihood"), disable_tqdm=True)
    assert bound < 0


def test_drawn_answers_come_from_a_seed_of_the_request_and_its_repeat(checkpoint):
    arguments = asked(5, until=[])
    lm = PrismLM(checkpoint, temperature=1.0, seed=1)
    answers = lm.generate_until(requests(arguments), disable_tqdm=True)
    assert lm.generate_until(requests(arguments[::-1]), disable_tqdm=True) == answers[::-1]
    assert PrismLM(checkpoint, temperature=1.0, seed=2).generate_until(requests(arguments)) != answers
    (request,) = requests(arguments[:1], repeats=2)
    first, second, beyond = lm.generate_until([request, request, request], disable_tqdm=True)
    assert first == answers[0] != second == beyond


@pytest.mark.parametrize(
    ("gen_kwargs", "chosen", "expected"),
    [
        ({}, {}, {"max_new_tokens": 256, "do_sample": False}),
        ({"max_gen_toks": 8}, {}, {"max_new_tokens": 8}),
        ({"max_gen_toks": 8, "max_new_tokens": 9}, {}, {"max_new_tokens": 9}),
        ({"max_gen_toks": 8, "max_new_tokens": 9}, {"max_new_tokens": 10}, {"max_new_tokens": 10}),
        ({"temperature": 0.5}, {}, {"do_sample": True, "temperature": 0.5}),
        ({"do_sample": False, "temperature": 0.0}, {"temperature": 0.1}, {"do_sample": True, "temperature": 0.1}),
        ({"do_sample": True, "temperature": 0.7}, {"do_sample": False}, {"do_sample": False}),
        ({"steps": 4, "block_length": 2}, {"steps": 8}, {"steps": 8, "block_length": 2}),
    ],
)
def test_the_models_arguments_win_over_the_tasks(gen_kwargs, chosen, expected):
    settings, until = settings_of_request({"until": ["a", ""]} | gen_kwargs, read_settings(chosen))
    assert until == ["a"]
    assert {name: settings[name] for name in expected} == expected
    assert "temperature" in expected or settings.get("temperature") in (None, 0.0)


def test_lists_are_read_with_semicolons():
    read = read_settings({"suppress_tokens": "[1;2]", "bad_words_ids": "[[1;2];[3]]", "eos_token_id": 5})
    assert read == {"suppress_tokens": [1, 2], "bad_words_ids": [[1, 2], [3]], "eos_token_id": 5}
    with pytest.raises(ValueError, match=r"must be a list such as \[126081;126348\]"):
        read_settings({"suppress_tokens": "1 and 2"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stesp": 4}, "Did you mean 'steps'"),
        ({"steps": 0}, "steps=0 must be"),
        ({"peft": "adapter"}, "name the adapter as pretrained"),
        ({"likelihood": "drem"}, "Did you mean 'dream'"),
        ({"batch_size": "many"}, "batch_size='many' must be"),
        ({"remask_strategy": "prism"}, "has no quality head"),
        ({"mc_batch_size": 3}, "mc_batch_size=3 must divide mc_num=128"),
    ],
)
def test_faults_are_told_before_anything_is_computed(checkpoint, arguments, message):
    with pytest.raises(ValueError, match=message):
        PrismLM(checkpoint, **arguments)


def test_a_wrong_setting_of_one_task_stops_all_before_the_first_forward(checkpoint):
    lm = PrismLM(checkpoint)
    with pytest.raises(ValueError, match="'num_beams' has no meaning"):
        lm.generate_until(requests(asked(2) + asked(1, num_beams=4)))
    assert not lm.counts


def test_contexts_that_are_too_long_lose_their_beginning(checkpoint):
    lm = PrismLM(checkpoint, max_length=20, max_new_tokens=16)
    long, short = requests([("def " * 30 + " of in", asked(1)[0][1]), (" of in", asked(1)[0][1])])
    assert lm._questions([long])[0] and len(lm._fit(lm.tok_encode(long.args[0]), 16)) == 4
    assert lm.generate_until([long], disable_tqdm=True) == lm.generate_until([long, short], disable_tqdm=True)[:1]
    with pytest.raises(ValueError, match="lower max_new_tokens"):
        PrismLM(checkpoint, max_length=20, max_new_tokens=20).generate_until([short])


def test_a_batch_is_halved_where_memory_ends(checkpoint, monkeypatch):
    arguments = asked(6)
    expected = PrismLM(checkpoint).generate_until(requests(arguments), disable_tqdm=True)
    for batch_size in ("auto", "auto:4", 8):
        lm = PrismLM(checkpoint, batch_size=batch_size, max_batch_size=8)
        forward = lm.model.forward

        def limited(input_ids, *args, forward=forward, **kwargs):
            if len(input_ids) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return forward(input_ids, *args, **kwargs)

        monkeypatch.setattr(lm.model, "forward", limited)
        if batch_size == 8:
            with pytest.raises(torch.OutOfMemoryError):
                lm.generate_until(requests(arguments), disable_tqdm=True)
        else:
            assert lm.generate_until(requests(arguments), disable_tqdm=True) == expected
            assert lm.batch_size == 2


def test_forwards_of_correctors_count_and_stop_strings_cut_the_tokens(checkpoint, tokenizer):
    backbone = load_model(checkpoint)
    torch.manual_seed(0)
    config = PrismConfig(backbone_config=backbone.config, mask_token_id=tokenizer.mask_token_id)
    model = PrismForMaskedDiffusion(config).eval()
    settings = {"remask_strategy": "prism", "num_remask": 1, "steps": 24, "max_new_tokens": 12, "eos_token_id": []}
    lm = PrismLM(model, tokenizer, batch_size=3, **settings)
    arguments = asked(3, until=["e"])
    answers = lm.generate_until(requests(arguments), disable_tqdm=True)
    counts = lm.get_model_info()["parallelism"]["own"]
    assert counts["forwards"] == 3 * 24 and counts["generated_tokens"] <= 3 * 12
    left = sum(len(tokenizer(answer).input_ids) for answer in answers)
    assert counts["tokens"] == left
    assert counts["tokens_per_forward"] == left / 72 and counts["seconds"] > 0


def test_a_chat_is_rendered_and_an_answer_that_was_begun_stays_open(checkpoint):
    lm = PrismLM(checkpoint)
    chat = [{"role": "user", "content": "Hi"}]
    assert lm.apply_chat_template(chat) == "<user>Hi\n<assistant>"
    begun = [*chat, {"role": "assistant", "content": "Well"}]
    assert lm.apply_chat_template(begun, add_generation_prompt=False) == "<user>Hi\n<assistant>Well"
    assert lm.tokenizer_name and lm.chat_template(True)


def evaluated(lm, tasks, names, **settings):
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    return simple_evaluate(lm, tasks=names, task_manager=manager, bootstrap_iters=0, **settings)


def test_a_whole_evaluation_and_its_cache(checkpoint, tasks, tmp_path):
    cache, names = str(tmp_path / "cache"), ["own_answers", "own_opened", "own_choices", "own_texts"]
    settings = {"use_cache": cache, "apply_chat_template": True}
    lm = PrismLM(checkpoint, batch_size=4, mc_num=4)
    first = evaluated(lm, tasks, names, **settings)
    assert first["config"]["parallelism"]["own_answers"]["answers"] == 6
    assert first["samples"]["own_opened"][0]["arguments"][0][0] == "<user>def f0(x, y):\n<assistant>return"
    lm = PrismLM(checkpoint, mc_num=4)
    second = evaluated(lm, tasks, names, **settings)
    assert not lm.counts and second["results"] == first["results"]
    with pytest.raises(ValueError, match="other settings, mc_batch_size, mc_num: name another"):
        evaluated(PrismLM(checkpoint, mc_num=8), tasks, names, **settings)


def test_two_processes_find_what_one_does(checkpoint, tasks, on_two):
    script = Path(__file__).with_name("two_processes.py")
    one = json.loads(runpy.run_path(str(script))["results_of"](checkpoint, str(tasks)))
    two = json.loads(on_two(script, checkpoint, tasks).splitlines()[-1])
    assert one["parallelism"]["own_answers"]["forwards"] == 6 * 4
    for each in (one, two):
        each["parallelism"]["own_answers"]["seconds"] = 0
    assert two["parallelism"] == one["parallelism"]
    assert two["samples"]["own_answers"] == one["samples"]["own_answers"]
    for name, rows in one["samples"].items():
        if name != "own_answers":
            numbers = [
                [float(row[0][0] if isinstance(row[0], list) else row[0]) for row in each]
                for each in (rows, two["samples"][name])
            ]
            assert numbers[0] == pytest.approx(numbers[1], abs=1e-4)


def test_the_command_line_puts_its_arguments_over_those_of_the_file(checkpoint, tasks, tmp_path, monkeypatch):
    (tmp_path / "base.yaml").write_text("batch_size: 2\ninclude_path: nowhere\nnum_processes: 1\n")
    held = {"extends": "base.yaml", "tasks": ["own_answers"], "include_path": str(tasks), "log_samples": True}
    held["model_args"] = {"pretrained": checkpoint, "steps": 8}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(held))
    recipe = str(RECIPES / "lm_evaluation.py")
    arguments = ["--model_args", "max_new_tokens=8", "steps=4", "begin_suppress_tokens=[1;2]", "--limit", "2"]
    arguments += ["--config", str(tmp_path / "mine.yaml"), "--output_path", str(tmp_path / "out"), "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", [recipe, *arguments])
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr("lm_eval.tasks.TaskManager", partial(TaskManager, include_defaults=False))  # 13,000 files
    runpy.run_path(recipe, run_name="__main__")
    (path,) = (tmp_path / "out").rglob("results_*.json")
    results = json.loads(path.read_text())
    assert results["config"]["model"] == "prism_hf" and results["config"]["batch_size"] == 2
    assert results["config"]["generation"]["begin_suppress_tokens"] == "[1, 2]"
    assert results["config"]["parallelism"]["own_answers"]["forwards"] == 2 * 4
    (samples,) = (tmp_path / "out").rglob("samples_own_answers_*.jsonl")
    assert len(samples.read_text().splitlines()) == 2


def test_a_file_that_is_not_for_the_harness_is_refused(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.yaml").write_text("task: [gsm8k]\n")
    monkeypatch.setattr(sys, "argv", ["lm", "--config", str(tmp_path / "mine.yaml")])
    with pytest.raises(SystemExit):
        runpy.run_path(str(RECIPES / "lm_evaluation.py"), run_name="__main__")
    usage, error = capsys.readouterr().err.splitlines()
    assert usage == "usage: lm_evaluation.py [--config FILE] [--argument value ...]"
    assert error.startswith(f"lm_evaluation.py: error: {tmp_path / 'mine.yaml'}: 'task' is no argument of the harness.")
    assert error.endswith("Did you mean 'tasks'?")


OWN = inspect.signature(PrismLM.__init__).parameters
OF_THE_HARNESS = {field.name for field in dataclasses.fields(EvaluatorConfig)}


@pytest.mark.parametrize("path", sorted((RECIPES / "configs").glob("lm_eval_*.yaml")), ids=lambda path: path.stem)
def test_published_settings_are_arguments_of_the_model(path):
    held = yaml.safe_load(path.read_text())
    assert set(held) <= OF_THE_HARNESS and held["model"] == "prism_hf"
    settings = read_settings({name: value for name, value in held["model_args"].items() if name not in OWN})
    config = RemaskGenerationConfig(**settings)
    assert config.max_new_tokens == config.steps
    folders = ("benchmarks", "gsm8k", "humaneval", "mbpp")
    texts = [file.read_text() for name in folders for file in (HARNESS / "tasks" / name).glob("*.yaml")]
    for task in held["tasks"]:
        assert any(re.search(rf"^(task|group): {task}$", text, re.MULTILINE) for text in texts), task
