"""What train.py does: recipes, augmentation, the loop, its measures and its state."""
