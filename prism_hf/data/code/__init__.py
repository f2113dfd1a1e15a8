"""Instructions and the Python functions that answer them, from the Hub or from files, to prompts and completions."""
