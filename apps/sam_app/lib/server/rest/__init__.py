"""The REST routes, the segmentation behind them and the store of their results."""
