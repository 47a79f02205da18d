"""State, optimizer and train step: pure functions, without config, files or processes."""
