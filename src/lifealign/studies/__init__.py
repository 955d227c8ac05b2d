"""Studies: methods compared over task orders, seeds, settings and models; their statistics and their report."""
