"""Checkpoints as Lightning and the authors' LLaDA trainer write them, converted to folders that load."""

import json
import subprocess
import sys
import types
from pathlib import Path

import omegaconf
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn
from transformers import PreTrainedTokenizerFast

from prism_hf import AutoPeftModelForPrism, PrismForMaskedDiffusion, RemaskGenerationConfig, load_model, remask_generate
from prism_hf.data import SudokuTokenizer
from prism_hf.models.convert_checkpoint import main
from prism_hf.models.llada import LladaForMaskedDiffusion
from prism_hf.models.mdlm import MdlmConfig, MdlmForMaskedDiffusion, MdlmModel, MdlmOutputLayer
from prism_hf.models.prism.quality_heads import MdlmQualityHead

FIXTURES = Path(__file__).parents[1] / "fixtures"
LLADA = FIXTURES / "llada_tiny"


def text_tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({"a": 0, "<|endoftext|>": 1}, unk_token="a")), eos_token="<|endoftext|>"
    )


def stirred(module: nn.Module, seed: int) -> nn.Module:
    """`module` with random weights all over, those that training starts at zero included."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return module.eval()


@torch.enable_grad()
def save_lightning(path: Path, backbone: nn.Module, adapter: nn.Module | None, tokenizer, ema, **config) -> Path:
    """A file with all that Lightning and the authors' modules put into one. `ema`: the averaged parameters."""
    state_dict = backbone.state_dict() | {
        f"adapter.{key}": value for key, value in (adapter.state_dict() if adapter else {}).items()
    }
    parameters = [nn.Parameter(value.clone()) for value in state_dict.values()]
    optimizer = torch.optim.AdamW(parameters)
    sum(parameter.sum() for parameter in parameters).backward()
    optimizer.step()
    tree = {
        "model": {"length": 1024, "dropout": 0.1, "hidden_size": "${.length}"},
        "time_conditioning": False,
        "eval": {"checkpoint_path": "${cwd:}/last.ckpt"},
        "tags": ["${model.length}", 1],
    }
    progress = {"total": {"ready": 3, "completed": 3}, "current": {"ready": 3, "completed": 3}}
    torch.save(
        {
            "epoch": 0,
            "global_step": 3,
            "pytorch-lightning_version": "2.2.1",
            "state_dict": state_dict,
            "loops": {"fit_loop": {"epoch_progress": progress, "epoch_loop.batch_progress": progress}},
            "callbacks": {"ModelCheckpoint{'monitor': 'val/nll'}": {"best_model_score": torch.tensor(1.5)}},
            "optimizer_states": [optimizer.state_dict()],
            "lr_schedulers": [{"_step_count": 4, "lr_lambdas": [None]}],
            "hparams_name": "kwargs",
            "hyper_parameters": {
                "config": omegaconf.OmegaConf.merge(tree, omegaconf.OmegaConf.create(config)),
                "tokenizer": tokenizer,
            },
            "ema": {"decay": 0.9999, "num_updates": 3, "shadow_params": ema},
            "sampler": {"random_state": torch.get_rng_state()[:8]},
        },
        path,
    )
    return path


@pytest.fixture
def sudoku_tokenizer(monkeypatch):
    """The authors' tokenizer, of a module `dataloader` that nobody who converts has: gone after a file is written."""
    module = types.ModuleType("dataloader")
    module.SudokuTokenizer = type("SudokuTokenizer", (), {"__module__": "dataloader"})
    monkeypatch.setitem(sys.modules, "dataloader", module)
    tokenizer = module.SudokuTokenizer()
    tokenizer.vocab_size, tokenizer.mask_token, tokenizer.mask_token_id, tokenizer.eos_token_id = 11, 0, 0, 10
    return tokenizer


def sudoku_config(hidden_dim=32, n_blocks=2) -> MdlmConfig:
    return MdlmConfig(vocab_size=11, hidden_dim=hidden_dim, cond_dim=16, n_blocks=n_blocks, n_heads=4, mask_token_id=0)


GRIDS = torch.randint(0, 11, (2, 89), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_a_prism_checkpoint_of_sudoku(tmp_path, sudoku_tokenizer, monkeypatch):
    averaged, raw = (stirred(MdlmForMaskedDiffusion(sudoku_config()), seed) for seed in (0, 1))
    head = stirred(MdlmQualityHead(averaged.config, 0), 2)
    ema = [parameter.detach().clone() for parameter in averaged.parameters()]
    save_lightning(tmp_path / "sudoku.ckpt", raw, head, sudoku_tokenizer, ema, model={"length": 89})
    monkeypatch.delitem(sys.modules, "dataloader")
    main([str(tmp_path / "sudoku.ckpt"), str(tmp_path / "out")])
    assert "dataloader" not in sys.modules

    model = load_model(tmp_path / "out")
    assert type(model) is PrismForMaskedDiffusion and model.generation_config.remask_strategy == "prism"
    config = model.config.backbone_config
    assert (model.config.mask_token_id, config.mask_token_id, config.model_length) == (0, 0, 89)
    body = averaged.backbone(GRIDS)
    output = model(GRIDS)
    torch.testing.assert_close(output.logits, averaged(GRIDS).logits, atol=1e-5, rtol=0)
    expected = head(body.last_hidden_state, body.conditioning)
    torch.testing.assert_close(output.quality_logits, expected, atol=1e-5, rtol=0)
    tokenizer = SudokuTokenizer.from_pretrained(tmp_path / "out")
    assert (tokenizer.mask_token_id, len(tokenizer)) == (0, 11)
    filled = model.generate(torch.where(GRIDS == 10, 10, 0), steps=4)
    assert (filled != 0).all()


def critic_of(config: MdlmConfig) -> MdlmModel:
    """The authors' critic: the whole transformer, with one number a position in place of the vocabulary."""
    critic = MdlmModel(config)
    critic.output_layer = MdlmOutputLayer(config, 1)
    return critic


@torch.no_grad()
def test_a_token_critic_checkpoint_of_sudoku(tmp_path, sudoku_tokenizer):
    denoiser = stirred(MdlmForMaskedDiffusion(sudoku_config()), 0)
    averaged, raw = (stirred(critic_of(sudoku_config(16, 1)), seed) for seed in (1, 2))
    ema = [parameter.detach().clone() for parameter in averaged.parameters()]
    # A frozen backbone has no average: the list covers the critic alone.
    save_lightning(tmp_path / "critic.ckpt", denoiser, raw, sudoku_tokenizer, ema, model={"length": 89})
    main([str(tmp_path / "critic.ckpt"), str(tmp_path / "out")])

    model, drafting = load_model(tmp_path / "out"), load_model(tmp_path / "out" / "denoiser")
    assert type(model) is PrismForMaskedDiffusion and type(drafting) is MdlmForMaskedDiffusion
    assert (model.config.mask_token_id, model.config.backbone_config.model_length) == (0, 89)
    assert (model.config.head_type, model.config.head_num_blocks) == ("dit", 0)
    body = averaged(GRIDS)
    expected = averaged.output_layer(body.last_hidden_state, body.conditioning).squeeze(-1)
    torch.testing.assert_close(model(GRIDS, return_logits=False).quality_logits, expected, atol=1e-5, rtol=0)
    assert all(torch.equal(value, denoiser.state_dict()[key]) for key, value in drafting.state_dict().items())
    canvas = torch.where(GRIDS == 10, 10, 0)
    filled = remask_generate(drafting, canvas, remask_strategy="token_critic", critic=model, steps=3)
    assert (filled != 0).all()
    for folder in ("out", "out/denoiser"):
        assert SudokuTokenizer.from_pretrained(tmp_path / folder).mask_token_id == 0


@pytest.mark.parametrize(
    "vocab_size, tokenizer, settings, expected",
    [
        (11, None, {}, (0, 1024, False)),
        (11, None, {"model": {"length": 81}}, (0, 81, False)),
        (35, None, {"model": {"length": 256}}, (4, 256, False)),
        (12, text_tokenizer(), {"time_conditioning": True}, (11, 1024, True)),
        (12, {"mask_token_id": 3}, {"model": {"length": "${eval.none}"}}, (3, 1024, False)),
    ],
)
def test_hyper_parameters_and_vocabulary_tell_the_config(tmp_path, vocab_size, tokenizer, settings, expected):
    config = MdlmConfig(vocab_size=vocab_size, hidden_dim=8, cond_dim=4, n_blocks=1, n_heads=2)
    model = stirred(MdlmForMaskedDiffusion(config), 0)
    save_lightning(tmp_path / "a.ckpt", model, None, tokenizer, list(model.parameters()), **settings)
    main([str(tmp_path / "a.ckpt"), str(tmp_path / "out")])
    found = load_model(tmp_path / "out")
    assert all(torch.equal(value, found.state_dict()[key]) for key, value in model.state_dict().items())
    assert (found.config.mask_token_id, found.config.model_length, found.config.time_conditioning) == expected
    main([str(tmp_path / "a.ckpt"), str(tmp_path / "other"), "--mask-token-id", "7"])
    assert load_model(tmp_path / "other").config.mask_token_id == 7


RENAMED = {
    "compiled": lambda key: key.replace("backbone.", "backbone._orig_mod."),
    "in parallel": lambda key: f"module.{key}",
    "inside another": lambda key: f"net.model.{key}",
}


@pytest.mark.parametrize("how", [*RENAMED, "beside another", "twice"])
def test_what_wrapped_a_model_leaves_its_name(tmp_path, how):
    config = MdlmConfig(vocab_size=12, hidden_dim=8, cond_dim=4, n_blocks=1, n_heads=2)
    model = stirred(MdlmForMaskedDiffusion(config), 0)
    path = save_lightning(tmp_path / "a.ckpt", model, None, None, tuple(model.parameters()))
    saved = torch.load(path, weights_only=False)
    weights = saved["state_dict"]
    saved["state_dict"] = {RENAMED.get(how, str)(key): value for key, value in weights.items()}
    if how == "beside another":
        saved["state_dict"] |= {f"teacher.{key}": value + 1 for key, value in weights.items()}
    elif how == "twice":
        saved["state_dict"] |= {f"module.{key}": value + 1 for key, value in weights.items()}
    torch.save(saved, path)
    if how == "twice":
        with pytest.raises(SystemExit, match="a.ckpt: two of its weights have one name"):
            main([str(path), str(tmp_path / "out")])
        return
    main([str(path), str(tmp_path / "out")])
    found = load_model(tmp_path / "out").state_dict()
    assert all(torch.equal(value, found[key]) for key, value in model.state_dict().items())


def test_gpt2_is_named(tmp_path, capsys):
    model = MdlmForMaskedDiffusion(MdlmConfig(hidden_dim=4, cond_dim=4, n_blocks=1, n_heads=2))
    save_lightning(tmp_path / "owt.ckpt", model, None, text_tokenizer(), list(model.parameters()))
    main([str(tmp_path / "owt.ckpt"), str(tmp_path / "out")])
    assert load_model(tmp_path / "out").config.mask_token_id == 50257
    assert "mask token 50257" in (told := capsys.readouterr().out) and "gpt2" in told


# LLaDA


@pytest.fixture(scope="module")
def llada(tmp_path_factory):
    """A file under the authors' names, and the model that they stand for: LoRA on q, k and v of LLaDA, and a head."""
    rank, alpha, width = 4, 4, 64
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=generator) * 0.2

    model = LladaForMaskedDiffusion.from_pretrained(LLADA).eval()
    published = {key: torch.zeros(1) for key in ("wte.weight", "ln_f.weight", "ff_out.weight")}
    with torch.no_grad():
        for block, layer in enumerate(model.model.layers):
            for name in ("q_proj", "k_proj", "v_proj"):
                linear, lora_a, lora_b = getattr(layer.self_attn, name), draw(rank, width), draw(width, rank)
                prefix = f"blocks.{block}.{name}"
                published[f"{prefix}.base_layer.weight"] = linear.weight.clone()
                published[f"{prefix}.lora_A.default.weight"] = lora_a
                published[f"{prefix}.lora_B.default.weight"] = lora_b
                adapted = Adapted(linear, lora_a, lora_b, alpha / rank)
                setattr(layer.self_attn, name, adapted)
    published = {f"backbone.base_model.model.model.transformer.{key}": value for key, value in published.items()}
    head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1))
    head = stirred(head, 3)
    for index, name in ((0, "norm"), (1, "proj1"), (3, "proj2")):
        for kind in ("weight", "bias"):
            published[f"remasking_head.{name}.{kind}"] = getattr(head[index], kind).detach()
    path = tmp_path_factory.mktemp("llada") / "pytorch_model.bin"
    torch.save(published, path)
    return path, model, head


class Adapted(nn.Module):
    """A linear layer with LoRA beside it, as PEFT adds them."""

    def __init__(self, linear, lora_a, lora_b, scale):
        super().__init__()
        self.linear, self.lora_a, self.lora_b, self.scale = linear, lora_a, lora_b, scale

    def forward(self, states):
        return self.linear(states) + states @ self.lora_a.T @ self.lora_b.T * self.scale


@torch.no_grad()
def test_the_authors_llada_checkpoint_is_a_plain_adapter(tmp_path, llada):
    path, reference, head = llada
    main([str(path), str(tmp_path / "out"), "--base-model", str(LLADA)])
    model = AutoPeftModelForPrism.from_pretrained(tmp_path / "out").eval()
    ids = torch.arange(24).view(2, 12)
    states = reference.model(ids).last_hidden_state
    output = model(input_ids=ids)
    assert (output.logits - reference.lm_head(states)).abs().max() == 0
    assert (output.quality_logits - head(states).squeeze(-1)).abs().max() == 0
    config = model.peft_config["default"]
    assert (config.r, config.lora_alpha) == (4, 4)
    assert set(config.target_modules) == {"q_proj", "k_proj", "v_proj"}
    assert model.generation_config.remask_strategy == "prism"
    assert load_model(tmp_path / "out").config.mask_token_id == 195
    main([str(path), str(tmp_path / "half"), "--base-model", str(LLADA), "--lora-alpha", "2"])
    halved = AutoPeftModelForPrism.from_pretrained(tmp_path / "half").eval()
    for module in reference.modules():
        if isinstance(module, Adapted):
            module.scale = 0.5
    expected = reference(ids).logits
    for module in reference.modules():
        if isinstance(module, Adapted):
            module.scale = 1.0
    assert torch.equal(halved(input_ids=ids).logits, expected)


@torch.no_grad()
@pytest.mark.parametrize("layout", ["wrapped", "within", "safetensors", "sharded", "sharded safetensors"])
def test_the_same_weights_in_other_files_and_under_other_names(tmp_path, llada, layout):
    path, reference, head = llada
    weights, folder = torch.load(path, weights_only=True), tmp_path / "in"
    folder.mkdir()
    if layout == "wrapped":
        weights = {f"module.{key}".replace(".model.model.", ".model._orig_mod.model."): weights[key] for key in weights}
        torch.save(weights, folder / "pytorch_model.bin")
    elif layout == "within":
        torch.save({f"net.{key}": weights[key] for key in weights}, folder / "pytorch_model.bin")
    elif layout == "safetensors":
        save_file(weights, folder / "model.safetensors")
    else:
        stem, suffix, save = "pytorch_model", ".bin", torch.save
        if layout == "sharded safetensors":
            stem, suffix, save = "model", ".safetensors", save_file
        places = {key: f"{stem}-0000{1 + number % 2}-of-00002{suffix}" for number, key in enumerate(weights)}
        for name in set(places.values()):
            save({key: weights[key] for key in weights if places[key] == name}, folder / name)
            with pytest.raises(SystemExit, match="one part of several"):
                main([str(folder / name), str(tmp_path / "out")])
        (folder / f"{stem}{suffix}.index.json").write_text(json.dumps({"weight_map": places}))
    main([str(folder), str(tmp_path / "out"), "--base-model", str(LLADA)])
    ids = torch.arange(24).view(2, 12)
    states = reference.model(ids).last_hidden_state
    output = load_model(tmp_path / "out")(input_ids=ids)
    assert torch.equal(output.logits, reference.lm_head(states))
    assert torch.equal(output.quality_logits, head(states).squeeze(-1))
    if "sharded" in layout:
        (folder / name).unlink()
        with pytest.raises(SystemExit, match=f"{name}.*which .* lacks"):
            main([str(folder), str(tmp_path / "again")])


@torch.no_grad()
@pytest.mark.parametrize("alpha", [None, 6])
def test_modules_may_have_ranks_of_their_own(tmp_path, llada, alpha):
    weights, generator = torch.load(llada[0], weights_only=True), torch.Generator().manual_seed(1)
    for name in ("1.k_proj", "0.v_proj"):
        for part, shape in (("A", (3, 64)), ("B", (64, 3))):
            weights[f"{LORA}.{name}.lora_{part}.default.weight"] = torch.randn(shape, generator=generator)
    torch.save(weights, tmp_path / "pytorch_model.bin")
    given = [] if alpha is None else ["--lora-alpha", str(alpha)]
    main([str(tmp_path), str(tmp_path / "out"), "--base-model", str(LLADA), *given])
    reference = LladaForMaskedDiffusion.from_pretrained(LLADA).eval()
    for block, layer in enumerate(reference.model.layers):
        for name in ("q_proj", "k_proj", "v_proj"):
            lora_a, lora_b = (weights[f"{LORA}.{block}.{name}.lora_{part}.default.weight"] for part in "AB")
            getattr(layer.self_attn, name).weight += (1 if alpha is None else alpha / len(lora_a)) * lora_b @ lora_a
    ids = torch.arange(24).view(2, 12)
    torch.testing.assert_close(load_model(tmp_path / "out")(input_ids=ids).logits, reference(ids).logits)
    with pytest.raises(SystemExit, match="lora_alpha=0 must be an integer of at least 1"):
        main([str(tmp_path), str(tmp_path / "none"), "--lora-alpha", "0"])


LORA = "backbone.base_model.model.model.transformer.blocks"


@pytest.mark.parametrize(
    "edit, message",
    [
        (lambda w: w.pop("remasking_head.proj2.bias"), r"the quality head has"),
        (lambda w: [w.pop(key) for key in list(w) if key.startswith("remasking_head")], "no Lightning checkpoint"),
        (lambda w: w.pop(f"{LORA}.1.k_proj.lora_B.default.weight"), r"missing in blocks: \['1.k_proj'\]"),
        (lambda w: [w.pop(key) for key in list(w) if "lora_" in key], "no whole LoRA adapter"),
        (lambda w: w.update({f"{LORA}.1.k_proj.lora_A.default.weight": torch.ones(2, 64)}), "of two ranks, 2 and 4"),
        (lambda w: w.update({f"{LORA}.1.k_proj.lora_A.other.weight": torch.ones(4, 64)}), "several adapters"),
        (lambda w: w.update({f"{LORA}.1.k_proj.lora_magnitude_vector": torch.ones(64)}), "no LoRA matrix"),
        (lambda w: w.update({f"{LORA}.1.attn.lora_A.default.weight": torch.ones(4, 64)}), "no LoRA matrix"),
    ],
)
def test_an_unfit_llada_checkpoint_is_refused(tmp_path, llada, edit, message):
    weights = torch.load(llada[0], weights_only=True)
    edit(weights)
    torch.save(weights, tmp_path / "pytorch_model.bin")
    with pytest.raises(SystemExit, match=f"pytorch_model.bin: .*{message}"):
        main([str(tmp_path / "pytorch_model.bin"), str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


# The command


def test_an_output_that_cannot_be_is_refused_before_work(tmp_path, llada):
    (tmp_path / "file").write_text("kept")
    for output in ("file", "file/below"):
        with pytest.raises(SystemExit, match="file is a file: give a folder"):
            main([str(llada[0]), str(tmp_path / output)])
    assert (tmp_path / "file").read_text() == "kept"
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").touch()
    with pytest.raises(SystemExit, match="model and an adapter in one folder"):
        main([str(llada[0]), str(tmp_path / "model")])
    with pytest.raises(SystemExit, match="is a folder without"):
        main([str(tmp_path), str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="--no-ema says nothing about a file like"):
        main([str(llada[0]), str(tmp_path / "out"), "--no-ema"])
    with pytest.raises(SystemExit, match="nothing_here"):
        main([str(tmp_path / "nothing_here.ckpt"), str(tmp_path / "out")])


@pytest.mark.parametrize("use_ema", [True, False])
def test_converting_stays_within_one_and_a_half_files(tmp_path, growth, use_ema):
    model = MdlmForMaskedDiffusion(sudoku_config(512))  # 26 MB
    content = {"state_dict": model.state_dict()} | (
        {"ema": {"shadow_params": [*model.parameters()]}} if use_ema else {}
    )
    torch.save(content, tmp_path / "large.ckpt")
    del model, content
    size = (tmp_path / "large.ckpt").stat().st_size
    arguments = [str(tmp_path / "large.ckpt"), str(tmp_path / "out"), *([] if use_ema else ["--no-ema"])]
    assert growth(main, arguments) < 1.5 * size


def test_the_command_line(tmp_path):
    command = [sys.executable, "-m", "prism_hf.models.convert_checkpoint"]
    done = subprocess.run(
        [*command, str(FIXTURES / "mdlm_tiny" / "prism.ckpt"), str(tmp_path / "out")], capture_output=True, text=True
    )
    assert done.returncode == 0 and "PrismForMaskedDiffusion" in done.stdout and "Warning" not in done.stderr
    assert isinstance(load_model(tmp_path / "out").generation_config, RemaskGenerationConfig)
