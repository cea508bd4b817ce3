"""Arrays: their order, bits, stored forms and platforms."""
