"""tam-edge."""
