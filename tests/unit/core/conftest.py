"""The rooms below share the `strategies` and `dense_reference` modules in this folder."""
