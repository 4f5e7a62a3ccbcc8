"""A Holdfast backend that keeps everything in one Redis server; see `holdfast_redis.driver`."""
