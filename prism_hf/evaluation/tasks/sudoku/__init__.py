"""Sudoku puzzles to solve."""
