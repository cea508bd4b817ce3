"""Arrays: their order, bits, stored forms, and the platforms that they live on."""
