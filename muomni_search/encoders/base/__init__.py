"""The default model: pretrained towers, and heads that bring them into one space."""
