"""What a run is, its directory, and how it is found."""
