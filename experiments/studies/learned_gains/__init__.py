"""Learned gains beside what each route does, in models with the parts of those that others train."""
