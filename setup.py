"""The recipes, which are pages beside the package, go into its wheel, where `prism-hf` finds them."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithRecipes(build_py):
    """Copies them among what the wheel is made of."""

    def run(self):
        super().run()
        if not self.editable_mode:  # where the checkout's own are used
            recipes = Path(self.build_lib) / "prism_hf" / "recipes"
            shutil.rmtree(recipes, ignore_errors=True)
            shutil.copytree("recipes", recipes, ignore=shutil.ignore_patterns("__pycache__"))


setup(cmdclass={"build_py": BuildWithRecipes})
