"""Florence-2, and what of it is trained."""
