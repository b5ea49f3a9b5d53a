"""μOmni's own encoders: Thinker, ViT-Tiny and AuT-Tiny, in PyTorch."""
