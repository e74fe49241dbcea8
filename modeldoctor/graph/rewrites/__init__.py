"""Cheaper graphs with equal results: each module rewrites a captured graph for one reason."""
