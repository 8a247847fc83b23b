"""Code that several tests share: tiny runs, networks, programs that are killed."""
