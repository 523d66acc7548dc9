"""Image files and what is drawn of them."""
