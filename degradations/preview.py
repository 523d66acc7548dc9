"""Show what a network is trained on: `python -m degradations.preview`, which lives in models/training/preview.py."""

import sys

from models.training.preview import main

if __name__ == "__main__":
    sys.exit(main())
