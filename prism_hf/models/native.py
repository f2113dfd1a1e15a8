"""What the masked language models of our own, LLaDA and MDLM, do alike."""

from typing import Any, cast

from prism_hf.backbones import BACKBONE_ADAPTERS
from prism_hf.generation import RemaskGenerationMixin
from prism_hf.hub.usage import AUTO_IMPORTS, AUTO_LOAD, generation_snippet, mask_of

from .vocabulary import resize_vocabulary


class NativeGenerationMixin(RemaskGenerationMixin):
    """Gives a native model `generate`, a vocabulary that can be resized, and a snippet for its card.

    Its forward takes `logits_to_keep` as `keep_positions` does. List it before the class that it extends.
    """

    config: Any  # of the class that this one extends
    _supports_logit_positions = True

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> Any:
        """As transformers' models do, see `resize_vocabulary`; the mask token keeps its id."""
        adapter = BACKBONE_ADAPTERS[self.config.model_type]
        return resize_vocabulary(cast(Any, self), adapter, self.config.mask_token_id, *args, **kwargs)

    def usage_snippet(self, repo_id: str, is_adapter: bool = False) -> str:
        """Python code that loads `repo_id` and generates, for a model card."""
        mask = mask_of(self)
        given = "" if mask == self.config.mask_token_id else f", mask_token_id={mask}"
        load = AUTO_LOAD.format(repo_id)
        return generation_snippet(self, repo_id, AUTO_IMPORTS, [load], f"model.generate(input_ids{given}")
