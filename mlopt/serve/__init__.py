"""The server that goes into images. Self-contained: it imports nothing else of mlopt."""
