"""One file for each kind of source. Siblings do not import each other."""
