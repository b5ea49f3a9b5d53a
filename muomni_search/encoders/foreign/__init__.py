"""Encoders that are not ours: functions that were registered, pretrained models on disk."""
