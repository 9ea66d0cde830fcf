"""The graph of both routes: its nodes and edges, runs of a model without some of them, direct paths."""
