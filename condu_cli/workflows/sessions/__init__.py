"""Sessions: commit, states, history, verify, gc, moving HEAD, diff, forget."""
