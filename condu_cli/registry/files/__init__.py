"""Files on disk and how they are written: paths, drafts, the lock."""
