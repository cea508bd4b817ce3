"""One picture after another: opened, decoded, cut, scaled, batched."""
