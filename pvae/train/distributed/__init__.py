"""Training in several processes: each computes its share of every batch."""
