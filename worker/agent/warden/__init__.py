"""A process of its own, with the standard library only, that starts programs and kills them with all they started."""
