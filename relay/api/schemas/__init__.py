"""What callers may say and what they are answered: the models that validate are the ones that the document shows."""
