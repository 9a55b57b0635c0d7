"""Models as folders that others can read: weights, a description of everything that rebuilds the encoder, and a model card."""
