"""The table of a package to files of sequences."""

import csv
import gzip
import json
import runpy
from pathlib import Path
from unittest import mock

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_antibodies.py"
# By the table of the standard code in any textbook: E V Q L W * and what DNA says them.
RESIDUES = {"GAA": "E", "GTG": "V", "CAG": "Q", "CTC": "L", "TGG": "W", "ATG": "M", "AGC": "S", "TAA": "*"}


def dna(residues):
    return "".join(next(codon for codon, residue in RESIDUES.items() if residue == each) for each in residues)


def test_productive_sequences_are_translated_and_clones_stay_together(tmp_path):
    rows = []
    for number in range(200):
        chain = ["EVQLW"[(number // 5**place) % 5] for place in range(4)] + ["M"] * 100
        for member in ("S", "V"):
            aligned = dna([*chain, member])
            rows.append((f"{number}", "TRUE", aligned[:9] + "..." + aligned[9:] + "AC"))
    whole = dna("M" * 120)
    rows += [("x", "FALSE", whole), ("y", "TRUE", whole[:90] + "TAA" + whole[93:]), ("z", "TRUE", dna("M" * 50))]
    with gzip.open(tmp_path / "table.tsv.gz", "wt") as file:
        csv.writer(file, delimiter="\t").writerows([("clone_id", "productive", "sequence_alignment"), *rows])
    with mock.patch("sys.argv", ["make_antibodies", str(tmp_path / "table.tsv.gz"), str(tmp_path / "made")]):
        runpy.run_path(str(SCRIPT), run_name="__main__")

    made = {
        split: [json.loads(line) for line in (tmp_path / "made" / f"{split}.jsonl").read_text().splitlines()]
        for split in ("train", "test", "validation")
    }
    clones = {split: [row["clone"] for row in kept] for split, kept in made.items()}
    assert sorted({clone for kept in clones.values() for clone in kept}, key=int) == [str(each) for each in range(200)]
    assert sum(len(set(kept)) for kept in clones.values()) == 200
    assert all(len(set(clones[split])) == len(clones[split]) > 5 for split in ("test", "validation"))
    assert len(clones["train"]) == 2 * len(set(clones["train"]))
    row = next(row for kept in made.values() for row in kept if row["clone"] == "7")
    assert row["text"] in ("Q V E E " + "M " * 100 + "S", "Q V E E " + "M " * 100 + "V")
