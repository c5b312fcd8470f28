"""Claude Code on another model: what `setup`, `check`, `launch` and their like are made of."""
