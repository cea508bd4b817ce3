"""The rooms below share `strategies` and `dense_reference`, which lie beside this file."""
