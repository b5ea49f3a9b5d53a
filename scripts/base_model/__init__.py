"""The steps that build the model `base`: packages → towers → features → heads."""
