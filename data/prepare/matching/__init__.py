"""How well degraded images resemble real ones: traces of the making of images, distances between folders, fitting."""
