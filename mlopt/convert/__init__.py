"""Programs that load a framework's models, each in a process of its own, and the door to start them."""
