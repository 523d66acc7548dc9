"""Degradations of published systems, each the `type:` of `degradation:`."""
