"""When training ends before its last round, and which round it leaves."""
