"""Documents of text, from the Hub or from files, to rows of tokens."""
