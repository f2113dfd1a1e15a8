"""What many processes share and a kill leaves usable."""
