"""How results are written: the output sink, and the words for figures and codecs."""
