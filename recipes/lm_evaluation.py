r"""lm-evaluation-harness with the model `prism_hf`: any masked diffusion model on the tasks that everyone uses.

    accelerate launch recipes/lm_evaluation.py --tasks gsm8k_cot --num_fewshot 5 --apply_chat_template --batch_size 8 \
        --model_args pretrained=GSAI-ML/LLaDA-8B-Instruct dtype=bfloat16 max_new_tokens=256 block_length=32
    prism-hf lm-eval --config lm_eval_llada_8b_instruct_gsm8k --num_processes 8

The arguments are the harness's own, and so are the keys of the YAML file, which may also hold `extends`, and flags of
`accelerate launch` for `prism-hf`. Of `model_args` and `gen_kwargs`, what the command line says is put over what the
file says, entry by entry. `ls` and `validate` as a first word are the harness's other commands.
"""

import argparse
import os
import sys
from dataclasses import fields
from pathlib import Path

from accelerate import PartialState

import prism_hf.evaluation.harness.lm_eval  # noqa: F401  (registers the model, and says so where the harness is missing)
from prism_hf._compat import harness_cli
from prism_hf.fields import did_you_mean
from prism_hf.jobs.launching import end_with_launcher, launch_flags
from prism_hf.jobs.yaml_files import read_yaml

COMMANDS = ("run", "ls", "validate")
MAPPINGS = ("model_args", "gen_kwargs")


def main() -> None:
    from lm_eval.utils import setup_logging

    end_with_launcher()
    setup_logging()
    if sys.argv[1:2] == [] or sys.argv[1] not in COMMANDS:
        sys.argv.insert(1, "run")
    prog = os.environ.get("PRISM_HF_COMMAND") or Path(sys.argv[0]).name
    usage = f"{prog} [--config FILE] [--argument value ...]"
    cli = harness_cli(usage)
    args = cli.parse_args()
    if args.command == "run":
        try:
            take_file(args)
        except ValueError as error:
            argparse.ArgumentParser(prog, usage).error(str(error))
    cli.execute(args)
    PartialState().destroy_process_group()


def take_file(args: argparse.Namespace) -> None:
    """Put what the file of `--config` holds under the arguments, and the model's name under both."""
    from lm_eval.config.evaluate_config import EvaluatorConfig

    held = {} if args.config is None else read_yaml(args.config)
    known, given = [field.name for field in fields(EvaluatorConfig)], vars(args)
    for name, value in ({"model": "prism_hf"} | held).items():
        if name in launch_flags():
            continue
        if name not in known:
            raise ValueError(f"{args.config}: {name!r} is no argument of the harness.{did_you_mean(name, known)}")
        if name in MAPPINGS:
            given[name] = (value or {}) | (given.get(name) or {})
        elif given.get(name) is None:
            given[name] = value
    args.config = None  # the harness would read it again


if __name__ == "__main__":
    main()
