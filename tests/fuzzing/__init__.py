"""What our own parsers make of bytes that nobody would write: an answer, or an error of ours that says why."""
