"""The registry on disk: sessions, blobs, HEAD, operations. Does not import torch."""
