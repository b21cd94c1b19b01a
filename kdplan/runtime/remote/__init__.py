"""Stores in the cloud: a local cache, which is an ordinary store, and the objects that machines share."""
