"""The command line: absl flags, turned once into a configuration."""
