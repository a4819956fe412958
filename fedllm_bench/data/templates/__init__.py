"""Chat templates: the suite's own as Jinja files, which one a run takes, and how a model maker's is cut."""
