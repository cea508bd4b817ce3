"""Weights in files: checkpoints, PEFT adapters, experts that were fine-tuned elsewhere."""
