"""Indirect objects in language models: matched and transplanted, by which heads, routes and circuits."""
