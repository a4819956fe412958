"""The training harness: model, loss, blocks of clients, rounds, engines and checkpoints."""
