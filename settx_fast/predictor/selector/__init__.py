"""A learned choice between learning frameworks: what is seen of a table, a network, its training, the decision."""
