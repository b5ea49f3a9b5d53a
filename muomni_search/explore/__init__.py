"""Looking at a space: pictures of it."""
