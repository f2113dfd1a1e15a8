"""transformers' pipeline for models that fill masks: `pipeline("masked-diffusion-generation")`.

`pipeline("text-generation")` loads decoders only. Ours is that one in all but what a canvas needs: what a tokenizer
puts after a text would stand between prompt and completion, and ids without text are never drawn.
"""

from typing import Any

from transformers import AutoModelForMaskedLM, PreTrainedTokenizerBase, TextGenerationPipeline
from transformers.pipelines import PIPELINE_REGISTRY

from prism_hf._compat import mask_token_of, unwrapped
from prism_hf.data.prompts import num_closing_tokens
from prism_hf.generation import RemaskGenerationMixin
from prism_hf.generation.configuration_remask import fitted_to_tokenizer

TASK = "masked-diffusion-generation"


class MaskedDiffusionPipeline(TextGenerationPipeline):
    """Goes on from texts or chats, correcting tokens on the way, with a model that has our `generate`.

    It takes and returns what [`~transformers.TextGenerationPipeline`] does. Settings are those of the model's
    generation config; none is added, so that `max_new_tokens` says how much is appended. An adapter is given as
    `load_model` returns it, with its tokenizer.

    Args:
        model (`PreTrainedModel`): With `generate`, such as `PrismForMaskedDiffusion`.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.
        **kwargs: As of `TextGenerationPipeline`: `batch_size`, `device`, `return_full_text`, and fields of
            `RemaskGenerationConfig`.

    Raises:
        ValueError: if the model has no `generate` of ours, a prompt holds masks, or no masks are appended.

    Example:
        ```python
        import prism_hf.models
        from transformers import pipeline

        write = pipeline("masked-diffusion-generation", model="runs/prism", max_new_tokens=64)
        print(write("def fibonacci(n):", return_full_text=False)[0]["generated_text"])
        ```
    """

    _default_generation_config = None

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase, **kwargs: Any) -> None:
        if not isinstance(unwrapped(model), RemaskGenerationMixin):
            raise ValueError(
                f"{type(model).__name__} does not generate by filling masks: wrap it, "
                "PrismForMaskedDiffusion.from_pretrained(name)."
            )
        super().__init__(model=model, tokenizer=tokenizer, **fitted_to_tokenizer(model, tokenizer, {}) | kwargs)

    def check_model_type(self, supported_models: Any) -> None:
        """Nothing: those that the parent supports are decoders."""

    def preprocess(self, prompt_text: Any, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        inputs = super().preprocess(prompt_text, *args, **kwargs)
        if isinstance(prompt_text, str):
            length = inputs["input_ids"].shape[1] - num_closing_tokens(self.tokenizer, prompt_text)
            inputs |= {name: inputs[name][:, :length] for name in ("input_ids", "attention_mask") if name in inputs}
        if bool((inputs["input_ids"] == mask_token_of(self.model.config)).any()):
            raise ValueError(
                f"The prompt {prompt_text!r} holds the mask token. What is filled in place is for model.generate, and "
                'of single tokens for pipeline("fill-mask").'
            )
        return inputs


PIPELINE_REGISTRY.register_pipeline(TASK, MaskedDiffusionPipeline, pt_model=AutoModelForMaskedLM, type="text")
