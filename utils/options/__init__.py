"""Option files and command lines: read, check, build."""
