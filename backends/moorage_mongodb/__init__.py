"""The MongoDB backend of Moorage; see `moorage_mongodb.driver`."""
