"""Judges text in the processes of a launch and prints what is found: predicting_run.py SCORER ARRAYS."""

import json
import sys

import numpy as np
from accelerate import PartialState
from transformers import AutoTokenizer, EvalPrediction, GPT2LMHeadModel

from prism_hf.evaluation import text_prediction_metrics

if __name__ == "__main__":
    PartialState(cpu=True)
    scorer, read = GPT2LMHeadModel.from_pretrained(sys.argv[1]).eval(), []
    scorer.register_forward_pre_hook(lambda _, args, kwargs: read.append(len(kwargs["input_ids"])), with_kwargs=True)
    with open(sys.argv[2]) as file:
        prediction = EvalPrediction(*map(np.array, json.load(file)))
    metrics = text_prediction_metrics(scorer, AutoTokenizer.from_pretrained(sys.argv[1]))(prediction)
    print(json.dumps({"metrics": metrics, "read": sum(read)}))
