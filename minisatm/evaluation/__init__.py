"""How networks do on clean images and on one another's adversarial examples: read setting and crossing first."""
