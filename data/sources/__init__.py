"""Image sources, each the `type:` of an entry under `data`."""
