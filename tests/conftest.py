"""What holds for all tests.

Where FAIL_SKIPPED is set, as in CI, a skipped test fails: else one that is never run anywhere is not missed.
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before huggingface_hub reads it: no test asks a server

import gc
import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import prism_hf

IN_TURN = str(Path(__file__).with_name("in_turn.py"))
ACCELERATE = Path(__file__).parents[1] / "recipes" / "accelerate"


@pytest.fixture(scope="session")
def text_tokenizer():
    """A byte-level BPE of 300 tokens. Not to be changed."""
    from prism_hf.data import train_byte_level_bpe

    return train_byte_level_bpe(sorted((Path(prism_hf.__file__).parent / "diffusion").glob("*.py")), 300)


@pytest.fixture(scope="session")
def text_model(text_tokenizer):
    """Makes a tiny LLaDA of random weights that reads the tokenizer's tokens."""
    import torch

    from prism_hf import LladaConfig, LladaForMaskedDiffusion

    def build(vocab_size=300):
        torch.manual_seed(0)
        config = LladaConfig(
            d_model=32,
            n_layers=1,
            n_heads=2,
            mlp_hidden_size=32,
            vocab_size=vocab_size,
            mask_token_id=text_tokenizer.mask_token_id,
            eos_token_id=text_tokenizer.eos_token_id,
            pad_token_id=text_tokenizer.pad_token_id,
            init_std=0.3,
        )
        return LladaForMaskedDiffusion(config).eval()

    return build


@pytest.fixture(scope="session", autouse=True)
def frozen_imports():
    """`Trainer.train` collects garbage; what the modules hold is none, and takes a second to look through."""
    gc.collect()
    gc.freeze()


class Launch:
    """Two processes of `accelerate launch`, which run scripts in turn; `run_by` runs before all of them."""

    def __init__(self, folder: Path, config: str, run_by: tuple[str, ...]):
        self.folder, self.number_of_scripts = folder, 0
        command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(ACCELERATE / config)]
        command += ["--num_processes", "2", "--main_process_port", "0", *run_by, IN_TURN, str(folder)]
        self.launcher = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=(folder / "stderr").open("w"))

    def run(self, *arguments: str) -> str:
        """Run a script with its arguments. What the first process prints."""
        number, self.number_of_scripts = self.number_of_scripts, self.number_of_scripts + 1
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            asked = {"arguments": arguments, "port": free.getsockname()[1]}
        (self.folder / "begun").write_text(json.dumps(asked))
        (self.folder / "begun").rename(self.folder / f"{number}.json")
        answers, until = [self.folder / f"{number}-{rank}.json" for rank in range(2)], time.monotonic() + 300
        while not all(answer.exists() for answer in answers):
            failed = [answer for answer in answers if answer.exists() and json.loads(answer.read_text())["error"]]
            if failed or self.launcher.poll() is not None or time.monotonic() > until:
                break
            time.sleep(0.02)
        found = [json.loads(answer.read_text()) for answer in answers if answer.exists()]
        errors = [each["error"] for each in found if each["error"]]
        if len(found) < 2 or errors:
            self.end()
        assert not errors, errors[0]
        assert len(found) == 2, (self.folder / "stderr").read_text()[-3000:]
        return found[0]["printed"]

    def end(self) -> None:
        self.launcher.terminate()
        self.launcher.wait(timeout=60)


@pytest.fixture(scope="session")
def on_two(tmp_path_factory):
    """Runs a script with its arguments in two processes, of one launch for each way to launch. What it prints.

    `use_cpu` in a script's arguments keeps them on the CPU.
    """
    launches = {}

    def run(*arguments, config="ddp.yaml", run_by=()):
        launch = launches.get((config, run_by))
        if launch is None or launch.launcher.poll() is not None:
            launch = launches[config, run_by] = Launch(tmp_path_factory.mktemp("two"), config, run_by)
        return launch.run(*map(str, arguments))

    yield run
    for launch in launches.values():
        launch.end()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    # What asks for hardware that is not there, or is for hardware that is, stays skipped.
    if os.environ.get("FAIL_SKIPPED") and report.skipped and not hasattr(report, "wasxfail"):
        _, _, reason = report.longrepr
        if "accelerator" not in reason:
            report.outcome, report.longrepr = "failed", f"{reason} (a failure, since FAIL_SKIPPED is set)"
    return report


def pytest_collectreport(report):
    if os.environ.get("FAIL_SKIPPED") and report.skipped:
        report.outcome = "failed"
