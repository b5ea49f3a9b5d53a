"""What the own sound tower is built from and how."""
