"""The section `clock` of a config, and the file of devices that it may name."""
