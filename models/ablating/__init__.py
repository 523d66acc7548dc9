"""Ablations: variants × seeds as one command, statistics that tell a difference from chance, a page to read them on."""
