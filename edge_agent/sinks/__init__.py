"""One file for each kind of sink. Siblings do not import each other."""
