"""What is done to an activation, as a value; what stands in its place; and models it is done to."""
