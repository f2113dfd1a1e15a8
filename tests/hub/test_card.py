"""What a card says of each kind of model, trained or not."""

import pytest
import yaml
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForMaskedLM

from prism_hf import PrismForMaskedDiffusion
from prism_hf.hub import TrainingRecord, papers
from prism_hf.hub.card import model_card
from prism_hf.resources import resource_path


def prism() -> PrismForMaskedDiffusion:
    return PrismForMaskedDiffusion.from_pretrained(resource_path("sudoku_prism"))


def foreign():
    return AutoModelForMaskedLM.from_pretrained(resource_path("sudoku_mdm"))


def adapted():
    """As PEFT wraps it, not by a class of ours."""
    return get_peft_model(prism(), LoraConfig(target_modules=["query"]))


CRITIC = TrainingRecord({}, mask_token_id=0, denoiser="user/denoiser", method="Critic", paper=papers.TOKEN_CRITIC)


@pytest.mark.parametrize(
    ("model", "record", "loads", "cites", "tags"),
    [
        (prism, None, "PrismForMaskedDiffusion", papers.PRISM, {"prism", "custom_generate"}),
        (adapted, None, "AutoPeftModelForPrism", papers.PRISM, {"prism", "custom_generate", "lora"}),
        (foreign, None, "AutoModelForMaskedLM", papers.MDLM, {"custom_generate"}),
        (prism, CRITIC, "PrismForMaskedDiffusion", papers.TOKEN_CRITIC, set()),
        (adapted, CRITIC, "AutoPeftModelForPrism", papers.TOKEN_CRITIC, {"lora"}),
    ],
)
def test_a_kind_of_model(model, record, loads, cites, tags):
    model = model()
    if record is not None:
        (model.get_base_model() if model.__class__.__name__ == "PeftModel" else model).training_record = record
    card = model_card(model, "user/repo", tags="own")
    assert f'{loads}.from_pretrained("user/repo")' in card.text
    assert cites["citation"] in card.text and cites["id"] in card.text
    assert set(card.data.tags) == {"masked-diffusion", "prism_hf", "own"} | tags
    assert ("## Training" in card.text) and ("Trained with Critic" in card.text) == (record is not None)
    assert "## Last evaluation" not in card.text and "training_args.json" not in card.text


def test_values_are_not_read_as_a_template():
    model = foreign()
    model.training_record = TrainingRecord({"learning_rate": 0.1}, 0, dataset="{{ secret }}", metrics={"eval_loss": 2})
    card = model_card(model, "user/repo", model_name="{% if %}", finetuned_from="user/base", license="mit")
    assert "# {% if %}" in card.text and "| Dataset | {{ secret }} |" in card.text
    assert "| `eval_loss` | 2 |" in card.text and "| `learning_rate` | 0.1 |" in card.text
    metadata = yaml.safe_load(str(card).split("---")[1])
    assert metadata["base_model"] == "user/base" and metadata["license"] == "mit"


def test_a_snippet_names_what_the_record_tells():
    model = prism()
    model.training_record = TrainingRecord({}, mask_token_id=0, length=12)
    assert "torch.full((1, 12), 0)" in model_card(model, "user/repo").text
