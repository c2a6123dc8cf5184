"""What train.py does: recipes and their parts, augmentation, the loop, evaluation and state."""
