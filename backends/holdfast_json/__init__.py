"""The JSON file backend of Holdfast: one readable file, and a journal beside it while it is in use."""
