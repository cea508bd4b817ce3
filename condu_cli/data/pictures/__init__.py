"""Pictures: open, decode, crop, scale and batch them."""
