"""What a run found, read once from its folder: tables, the paper's figures, screen, page and figures."""
