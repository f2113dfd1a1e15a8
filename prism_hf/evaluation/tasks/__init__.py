"""What models are evaluated on."""
