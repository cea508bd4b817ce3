"""The registry on disk: sessions, blobs, HEAD, operations. Knows no torch."""
