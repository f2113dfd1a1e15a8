"""A script of TRL's SFTTrainer and the same one of PrismTrainer: two lines differ, and both train, print and save."""

import difflib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForCausalLM, ModernBertConfig, ModernBertForMaskedLM

from prism_hf import load_model

EXAMPLES = Path(__file__).parents[1] / "examples"
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' }}{% if message['role'] == 'assistant' %}{% generation %}"
    "{{ message['content'] + eos_token }}{% endgeneration %}{% else %}{{ message['content'] + '\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.fixture
def runs(text_tokenizer, tmp_path):
    """Both scripts, run side by side on the same conversations: what each printed, and its folder."""
    tokens = {name: getattr(text_tokenizer, name) for name in ("mask_token_id", "eos_token_id", "pad_token_id")}
    settings = SIZES | tokens | {"vocab_size": len(text_tokenizer), "bos_token_id": tokens["eos_token_id"]}
    models = {
        "sft": LlamaForCausalLM(LlamaConfig(**settings)),
        "prism": ModernBertForMaskedLM(ModernBertConfig(**settings, cls_token_id=None, sep_token_id=None)),
    }
    turns = [{"role": "user", "content": "How many drafts?"}, {"role": "assistant", "content": "One, and K masks."}]
    (tmp_path / "rows.jsonl").write_text(80 * (json.dumps({"messages": turns}) + "\n"))
    started = {}
    for name, model in models.items():
        model.save_pretrained(tmp_path / name)
        text_tokenizer.save_pretrained(tmp_path / name)
        (tmp_path / name / "chat_template.jinja").write_text(TEMPLATE)
        command = [sys.executable, EXAMPLES / f"{name}.py", name, "rows.jsonl", f"trained_{name}"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started[name] = subprocess.Popen(command, cwd=tmp_path, text=True, **pipes)
    printed = {}
    for name, process in started.items():
        printed[name], errors = process.communicate()
        assert process.returncode == 0, errors
    return printed, tmp_path


def test_two_lines_turn_a_script_of_sft_trainer_into_one_of_prism(runs):
    scripts = [(EXAMPLES / f"{name}.py").read_text().splitlines() for name in ("sft", "prism")]
    changed = [line for line in difflib.ndiff(*scripts) if line[0] in "+-"]
    assert [line[0] for line in changed] == ["-", "+", "-", "+"]
    printed, folder = runs
    for name in printed:
        assert "'loss':" in printed[name]
        assert (folder / f"trained_{name}" / "model.safetensors").exists()
        assert (folder / f"trained_{name}" / "tokenizer.json").exists()
    assert "'quality_loss':" in printed["prism"]
    model = load_model(folder / "trained_prism")
    assert model.generation_config.remask_strategy == "prism"
