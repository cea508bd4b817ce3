"""What is on the disk and how it is written: paths, drafts, flushing, the lock."""
