"""Base models behind one interface: open_clip architectures and the embedded `mini`."""
