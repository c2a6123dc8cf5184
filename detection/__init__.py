"""What ood_methods.py does: scores of every set, tuning, metrics and tables."""
