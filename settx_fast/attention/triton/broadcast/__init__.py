"""Stage B: the elements of long sets read few keys, then the rest of the block; forward and backward."""
