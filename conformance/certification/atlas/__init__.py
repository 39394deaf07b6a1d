"""The atlas: what a run over all architectures with ``--resume`` keeps, as pages of Markdown."""
