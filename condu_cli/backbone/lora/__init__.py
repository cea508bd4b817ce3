"""LoRA: which layers get factors, what they start as, and the record that a registry keeps."""
