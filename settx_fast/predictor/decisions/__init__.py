"""What a choice of framework is worth: on held-out SCMs, on priors never trained on, and on real tables."""
