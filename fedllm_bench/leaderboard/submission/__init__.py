"""A submission as it arrives: bytes of strangers, checked and read."""
