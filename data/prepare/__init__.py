"""Make training data ready: `python -m data.prepare COMMAND`, one module per command. Training imports none of it."""
