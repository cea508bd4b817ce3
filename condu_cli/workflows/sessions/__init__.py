"""Work on sessions: commit, pack, verify, gc, rollback, diff, forget."""
