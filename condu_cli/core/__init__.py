"""The method: pure functions on arrays (unify, decouple, masks, prototypes, routing)."""
