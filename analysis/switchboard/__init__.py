"""What the route switchboard shows, measured: nodes, edges, routes and patterns of a model, step by step."""
