"""The remasking sampler of prism_hf, for `model.generate(custom_generate="<this repository>", trust_remote_code=True)`.

It takes any masked diffusion model; a remask strategy that reads quality needs one with a quality head.
"""

try:
    from prism_hf import remask_generate
except ImportError as error:
    raise ImportError(
        "This repository generates with the Python package prism_hf, which cannot be imported here "
        f"({error}). Install prism_hf into this environment and try again."
    ) from error


def generate(model, inputs=None, input_ids=None, generation_config=None, **kwargs):
    """Fill the masks of `inputs` (or `input_ids`), (B, L); see `prism_hf.remask_generate` for the arguments."""
    # transformers hands over every argument of its own generate, most of them None.
    kwargs = {name: value for name, value in kwargs.items() if value is not None}
    return remask_generate(model, inputs if input_ids is None else input_ids, generation_config, **kwargs)
