"""Images as variants of one model: named, compared, picked, and moved through a registry."""
