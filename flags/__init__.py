"""Command line: absl flags, and the only code that turns them into a configuration."""
