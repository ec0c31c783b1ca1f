"""The REST routes, the work behind them and the results that they keep."""
