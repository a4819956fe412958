"""Which part of an adapter clients train and send: a half of it, or fewer ranks."""
