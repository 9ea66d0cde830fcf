"""What patching would do, estimated from gradients: of sites and of edges, with how well it agrees."""
