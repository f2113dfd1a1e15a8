"""Preparation of a corpus: MB of text a second, and peak memory, by size, processes, and as a stream.

    python scripts/bench_data.py prose/train.jsonl [--megabytes 25 100] [--length 128]

The file's rows are repeated until the corpus is as large as asked for. Reading, tokenizing and cutting it to blocks are
timed together, from an empty cache, in a process of its own each time; then a pass over all blocks in random order, or
over the stream. Memory is the peak of what the process and its children hold of their own; what they share with the
disk, mapped files above all, the system takes back when it needs it. Linux only, as it reads that from /proc.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

VOCAB_SIZE = 4096


def own_memory() -> int:
    """MiB that this process and its children hold and share with no file."""
    me, total = os.getpid(), 0
    for folder in Path("/proc").iterdir():
        try:
            status = dict(
                line.split(":\t", 1) for line in (folder / "status").read_text().splitlines() if ":\t" in line
            )
        except (OSError, ValueError):
            continue
        if me in (int(status["Pid"]), int(status["PPid"])) and "RssAnon" in status:
            total += int(status["RssAnon"].split()[0])
    return total // 1024


def measured(path: str, folder: str, length: int, num_proc: int, streaming: bool) -> dict[str, float]:
    """Seconds of the preparation and of a pass, blocks, and peak memory."""
    import torch
    from transformers import AutoTokenizer

    from prism_hf.data import encode_text, load_text

    tokenizer = AutoTokenizer.from_pretrained(folder)
    peak, done = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.05):
            peak = max(peak, own_memory())

    watching = threading.Thread(target=watch)
    watching.start()
    start = time.perf_counter()
    blocks = encode_text(load_text(path, streaming=streaming), tokenizer, length, num_proc=num_proc)
    prepared = time.perf_counter()
    if streaming:
        number = sum(1 for _ in blocks)
    else:
        number = sum(1 for index in torch.randperm(len(blocks)).tolist() if blocks[index])
    passed = time.perf_counter()
    done.set()
    watching.join()
    return {"prepare": prepared - start, "pass": passed - prepared, "blocks": number, "memory": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="JSONL with a column text")
    parser.add_argument("--megabytes", type=int, nargs="+", default=[25, 100])
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--run", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        path, folder, length, num_proc, streaming = args.run
        print(json.dumps(measured(path, folder, int(length), int(num_proc), streaming == "stream")))
        return
    from prism_hf.data import learn_byte_level_bpe

    texts = [json.loads(line)["text"] for line in args.file.open(encoding="utf-8")]
    print(
        "| corpus, MB | as | prepare, s | MB/s | a pass, s | blocks | peak memory, MiB |\n|---|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        learn_byte_level_bpe(texts[:2000], VOCAB_SIZE).save_pretrained(folder)
        for megabytes in args.megabytes:
            path = Path(folder) / f"{megabytes}.jsonl"
            size, number = 0, 0
            with path.open("w", encoding="utf-8") as file:
                while size < megabytes * 10**6:
                    text = f"{number} {texts[number % len(texts)]}"
                    file.write(json.dumps({"text": text}) + "\n")
                    size, number = size + len(text), number + 1
            for num_proc, streaming in ((1, "table"), (2, "table"), (1, "stream")):
                command = [sys.executable, __file__, str(args.file)]
                command += ["--run", str(path), folder, str(args.length), str(num_proc), streaming]
                with tempfile.TemporaryDirectory() as cache:
                    environment = os.environ | {"HF_DATASETS_CACHE": cache}
                    result = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
                row = json.loads(result.stdout.splitlines()[-1])
                seconds = row["prepare"] + (row["pass"] if streaming == "stream" else 0)
                way = "a stream" if streaming == "stream" else f"a table, {num_proc} processes"
                cells = (
                    f"{size / 1e6:.0f}",
                    way,
                    f"{row['prepare']:.1f}",
                    f"{size / 1e6 / seconds:.2f}",
                    f"{row['pass']:.1f}",
                    str(row["blocks"]),
                    str(row["memory"]),
                )
                print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
