"""Fine-tune one expert."""
