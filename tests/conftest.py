"""What holds for all tests.

Where FAIL_SKIPPED is set, as in CI, a skipped test fails: else one that is never run anywhere is not missed.
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before huggingface_hub reads it: no test asks a server

import gc

import pytest


@pytest.fixture(scope="session", autouse=True)
def frozen_imports():
    """`Trainer.train` collects garbage; what the modules hold is none, and takes a second to look through."""
    gc.collect()
    gc.freeze()


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
