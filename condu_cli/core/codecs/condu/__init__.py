"""The paper's codec: stored masks, and patches from newer to older states."""
