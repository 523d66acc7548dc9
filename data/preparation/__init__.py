"""What `python -m data.prepare` does, a module for each command. Not imported by training."""
