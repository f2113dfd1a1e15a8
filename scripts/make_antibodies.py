"""Write antibody sequences as JSONL: the heavy chains of one person's repertoire, which a package carries.

PyPI's pyalakazam (AGPL-3.0) has them as its example data, 2,000 sequences of DNA from a study of influenza vaccination
(Laserson et al., PNAS 2014). It is fetched, not installed (0.2 MB):

    pip download --no-deps pyalakazam==0.1.1
    python -m zipfile -e pyalakazam-0.1.1-py3-none-any.whl pyalakazam
    python scripts/make_antibodies.py pyalakazam/pyalakazam/data/ExampleDb.tsv.gz antibodies

A row is the variable domain of a productive sequence, as residues with spaces between them: a token of AntiBERTy each.
Cells that descend from one cell, a clone, have nearly the same sequence, so a clone is on one side of the split, and
but in `train.jsonl` it has one row: those of `test.jsonl` (recovery) and `validation.jsonl` (what is chosen by looking)
are of as many clones.
"""

import argparse
import csv
import gzip
import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from prism_hf.data.splits import split_of

SHARES = {"test": 0.25, "validation": 0.08}  # of the clones
SHORTEST = 100  # residues
BASES = "TCAG"
# The standard genetic code, in the order of `product(BASES, repeat=3)`; `*` ends a protein.
RESIDUES = "FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG"
CODONS = dict(zip(map("".join, product(BASES, repeat=3)), RESIDUES, strict=True))


def translate(aligned: str) -> str | None:
    """The residues of a sequence aligned by IMGT's scheme, whose gaps are whole codons; None where it has no whole one.

    A last codon that is cut off is left out.
    """
    dna = aligned.replace(".", "").replace("-", "").upper()
    codons = [dna[start : start + 3] for start in range(0, len(dna) - 2, 3)]
    residues = "".join(CODONS.get(codon, "*") for codon in codons)
    return None if "*" in residues else residues


def chains(path: Path) -> Iterator[tuple[str, str]]:
    """Each clone's name and a sequence of it that no row before has."""
    seen: set[str] = set()
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            residues = translate(row["sequence_alignment"]) if row["productive"] in ("T", "TRUE") else None
            if residues is not None and len(residues) >= SHORTEST and residues not in seen:
                seen.add(residues)
                yield row["clone_id"], residues


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="ExampleDb.tsv.gz")
    parser.add_argument("output", type=Path, help="folder for the JSONL files")
    args = parser.parse_args()
    rows: dict[str, list[tuple[str, str]]] = {split: [] for split in ("train", *SHARES)}
    held_out: set[str] = set()
    for clone, residues in chains(args.table):
        split = split_of(clone, SHARES, seed=0)
        if split == "train" or clone not in held_out:
            rows[split].append((clone, residues))
            held_out.add(clone)
    args.output.mkdir(parents=True, exist_ok=True)
    for split, kept in rows.items():
        lines = (json.dumps({"text": " ".join(residues), "clone": clone}) + "\n" for clone, residues in kept)
        (args.output / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"{split}: {len(kept)} sequences of {len({clone for clone, _ in kept})} clones")


if __name__ == "__main__":
    main()
