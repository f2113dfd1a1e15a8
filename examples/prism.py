"""Fine-tune MODEL on the `messages` of a file: python THIS_FILE.py MODEL CONVERSATIONS.jsonl OUTPUT"""

import sys

import torch
from datasets import load_dataset
from prism_hf import PrismTrainer, PrismTrainingArguments

model, conversations, output = sys.argv[1:]
dataset = load_dataset("json", data_files=conversations, split="train")
settings = {"assistant_only_loss": True, "max_length": 512, "num_train_epochs": 1, "bf16": torch.cuda.is_available()}
trainer = PrismTrainer(model, PrismTrainingArguments(output, **settings), train_dataset=dataset)
trainer.train()
trainer.save_model()
