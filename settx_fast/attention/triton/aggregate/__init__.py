"""Stage A: few queries read long sets, forward and backward."""
