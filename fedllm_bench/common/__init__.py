"""What every part uses and that knows nothing of federated learning: errors, files, text, processes, the network."""
