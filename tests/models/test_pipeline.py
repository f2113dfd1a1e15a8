"""`pipeline("masked-diffusion-generation")`, against `generate_to_jsonl`."""

import json

import pytest
from peft import LoraConfig
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertForMaskedLM, pipeline

from prism_hf import PrismForMaskedDiffusion, generate_to_jsonl, load_model
from prism_hf.models.prism.peft_model import PeftModelForPrism

TASK = "masked-diffusion-generation"
TEXTS = ["def f(x):", "import torch", "x"]
GREEDY = {"max_new_tokens": 6, "steps": 3, "order": "margin"}


def completions(model, tokenizer, path, **settings):
    generate_to_jsonl(model, tokenizer, [{"prompt": text} for text in TEXTS], path, **settings)
    return [json.loads(line)["completion"] for line in path.read_text().splitlines()]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_texts(text_model, text_tokenizer, tmp_path, batch_size):
    text_model().save_pretrained(tmp_path)
    text_tokenizer.save_pretrained(tmp_path)
    write = pipeline(TASK, model=str(tmp_path), device="cpu", batch_size=batch_size, **GREEDY)
    expected = completions(text_model(), text_tokenizer, tmp_path / "out.jsonl", **GREEDY)
    assert [row["generated_text"] for (row,) in write(TEXTS, return_full_text=False)] == expected
    assert [row["generated_text"] for (row,) in write(TEXTS)] == [a + b for a, b in zip(TEXTS, expected, strict=True)]
    assert len(write(TEXTS[0], num_return_sequences=2, do_sample=True)) == 2
    assert len(write(TEXTS[0], return_tensors=True, max_new_tokens=2)[0]["generated_token_ids"]) > 2


def test_what_closes_a_text_for_the_tokenizer_is_not_in_a_prompt(text_model, text_tokenizer, tmp_path, monkeypatch):
    eos = text_tokenizer.eos_token
    closing = TemplateProcessing(single=f"$A {eos}", special_tokens=[(eos, text_tokenizer.eos_token_id)])
    monkeypatch.setattr(text_tokenizer.backend_tokenizer, "post_processor", closing)
    write = pipeline(TASK, model=text_model(), tokenizer=text_tokenizer, device="cpu", **GREEDY)
    assert text_tokenizer("x").input_ids[-1] == text_tokenizer.eos_token_id
    expected = completions(text_model(), text_tokenizer, tmp_path / "out.jsonl", **GREEDY)
    assert [row["generated_text"] for (row,) in write(TEXTS, return_full_text=False)] == expected


def test_a_chat_and_an_adapter(text_model, text_tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(text_tokenizer, "chat_template", "{% for m in messages %}[{{ m['content'] }}]{% endfor %}=")
    text_model().save_pretrained(tmp_path / "base")
    base = PrismForMaskedDiffusion.from_pretrained(tmp_path / "base")
    adapter = PeftModelForPrism(base, LoraConfig(target_modules=["q_proj"], modules_to_save=["quality_head"]))
    adapter.save_pretrained(tmp_path / "adapter")
    model = load_model(str(tmp_path / "adapter"))
    settings = GREEDY | {"remask_strategy": "prism"}
    write = pipeline(TASK, model=model, tokenizer=text_tokenizer, device="cpu", **settings)
    chat = [{"role": "user", "content": "x"}]
    rows = [{"prompt": chat}]
    generate_to_jsonl(model, text_tokenizer, rows, tmp_path / "out.jsonl", apply_chat_template=True, **settings)
    answer = {"role": "assistant", "content": json.loads((tmp_path / "out.jsonl").read_text())["completion"]}
    assert write(chat)[0]["generated_text"] == [*chat, answer]


def test_what_cannot_be_written_is_told(text_model, text_tokenizer):
    with pytest.raises(ValueError, match="BertForMaskedLM does not generate by filling masks"):
        bert = BertForMaskedLM(
            BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, mask_token_id=103)
        )
        pipeline(TASK, model=bert, tokenizer=text_tokenizer, device="cpu")
    write = pipeline(TASK, model=text_model(), tokenizer=text_tokenizer, device="cpu")
    with pytest.raises(ValueError, match="set max_new_tokens"):
        write("x")
    with pytest.raises(ValueError, match="holds the mask token"):
        write(f"x{text_tokenizer.mask_token}", max_new_tokens=2)
    with pytest.raises(ValueError, match="stepz"):
        write("x", stepz=2)


def test_it_is_saved_with_the_model(text_model, text_tokenizer, tmp_path):
    write = pipeline(TASK, model=text_model(), tokenizer=text_tokenizer, device="cpu", **GREEDY)
    write.save_pretrained(tmp_path)
    again = pipeline(model=str(tmp_path), device="cpu", trust_remote_code=True, **GREEDY)
    assert again("x") == write("x")
