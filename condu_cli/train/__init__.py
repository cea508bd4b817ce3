"""Fine-tuning of one expert."""
