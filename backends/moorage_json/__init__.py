"""The JSON file backend of Moorage: one readable file, and a journal beside it while it is in use."""
