"""What training computes, by the parts of the model."""
