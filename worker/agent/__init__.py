"""The agent: a model and local tools, in turns, as one stream."""
