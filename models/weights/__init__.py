"""Weight files: read any published layout."""
