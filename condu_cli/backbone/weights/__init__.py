"""Weights in files: checkpoints, PEFT adapters, experts fine-tuned elsewhere."""
