"""What several tests share: tiny runs, networks, programs that are killed."""
