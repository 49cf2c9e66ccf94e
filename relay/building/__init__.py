"""What the composition root puts together, part by part."""
