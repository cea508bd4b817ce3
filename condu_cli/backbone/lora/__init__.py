"""LoRA: target layers, initial factors, and the record that a registry keeps."""
