"""One stream from its admission to its terminal record: the pump and what it needs."""
