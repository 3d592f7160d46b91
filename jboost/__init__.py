"""jboost: gradient steps through a robust joint classifier-discriminator, compiled."""
