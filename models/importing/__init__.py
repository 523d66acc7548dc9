"""Option files of other frameworks, turned into ours: `python -m models.importing FILE -o mine.yml`."""
