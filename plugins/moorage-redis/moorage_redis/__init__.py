"""A Moorage backend that keeps everything in one Redis server; see `moorage_redis.driver`."""
