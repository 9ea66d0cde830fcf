"""What every room uses: errors, checked fields, plain data and its hashes, files."""
