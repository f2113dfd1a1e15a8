"""Sudoku as text to denoise: grids, files, puzzles with one solution, symmetries, a tokenizer and datasets."""
