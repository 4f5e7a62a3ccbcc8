"""The MongoDB backend of Holdfast; see `holdfast_mongodb.driver`."""
