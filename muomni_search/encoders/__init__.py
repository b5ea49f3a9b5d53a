"""Encoders: one modality in, unit vectors of one shared space out."""
