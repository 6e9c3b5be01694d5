"""Where a dataset may lie and whether its rows can be trained on."""
