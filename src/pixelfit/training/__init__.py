"""One recipe in, one trained model out."""
