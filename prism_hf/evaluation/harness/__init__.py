"""What lm-evaluation-harness needs to evaluate a masked diffusion model. Nothing else of ours imports the harness."""

from importlib.util import find_spec

if find_spec("lm_eval") is None:
    raise ImportError("lm-evaluation-harness is not installed: pip install 'prism_hf[lm-eval]'.")
