"""What segmentation for many people costs, and how many workers and fronts it needs: measured, then simulated."""
