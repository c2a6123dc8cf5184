"""What run_networks.py does: which features to make, what a network expects, the pass over images,
input perturbation."""
